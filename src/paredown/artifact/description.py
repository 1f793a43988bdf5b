"""`paredown.json`: what an artifact says of itself. No torch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from paredown.errors import ModelError
from paredown.spec.plan import PLAN_FILE, PlanRecord
from paredown.spec.reading import read_object
from paredown.spec.serial import SCHEMA_VERSION
from paredown.spec.strategy import Strategy
from paredown.store.atomic import write_json

FILE = "paredown.json"
_LIBRARIES = (
    "paredown", "torch", "transformers", "compressed-tensors", "bitsandbytes", "auto-round",
)  # fmt: skip


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide what an artifact contains."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe(folder: Path, *, strategy: Strategy, base: dict[str, Any], how_to_load: str) -> None:
    """Write `paredown.json` beside the weights; the plan that a step has left moves into it."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "strategy": strategy,
        "strategy_text": str(strategy),
        "base_model": base,
        "libraries": library_versions(),
        "load": how_to_load,
        "measurements": [],
    }
    left = folder / PLAN_FILE
    if left.exists():
        document["plan"] = PlanRecord.read(left)
    write_json(folder / FILE, document)
    left.unlink(missing_ok=True)


def read_plan(folder: Path) -> PlanRecord | None:
    """The plan of an artifact; None where `mixed` did not make it.

    Raises:
        ConfigError: it is damaged.
    """
    document = read_description(folder)
    return PlanRecord.read(folder) if document and document.get("plan") else None


def add_measurements(folder: Path, measurements: list[dict[str, Any]]) -> None:
    """Record what was measured of an artifact inside it."""
    path = folder / FILE
    document = read_object(path, error=ModelError)
    write_json(path, document | {"measurements": measurements})


def read_description(folder: Path) -> dict[str, Any] | None:
    """`paredown.json` of an artifact; None for an ordinary model folder.

    Raises:
        ModelError: the file is damaged, or a newer version wrote it.
    """
    path = folder / FILE
    if not path.exists():
        return None
    document = read_object(path, error=ModelError, mend="the artifact is damaged")
    version = document.get("schema_version", 1)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise ModelError(f"{path} was written by a newer paredown; please upgrade")
    return document
