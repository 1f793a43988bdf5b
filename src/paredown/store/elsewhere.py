"""`engines.json` of an experiment: its front in other engines than that of the search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from paredown.errors import ExperimentError
from paredown.spec.elsewhere import Elsewhere
from paredown.spec.reading import read_object
from paredown.spec.serial import SCHEMA_VERSION, plain
from paredown.store.atomic import write_json

FILE = "engines.json"
_ROWS = TypeAdapter(tuple[Elsewhere, ...])


def read_elsewhere(folder: Path) -> tuple[Elsewhere, ...]:
    """What was measured in other engines; nothing where that was not asked for.

    Raises:
        ExperimentError: the file is damaged, or of a newer version.
    """
    path = folder / FILE
    if not path.is_file():
        return ()
    document = read_object(path, error=ExperimentError, mend="delete it and resume the run")
    if document.get("schema_version", 1) > SCHEMA_VERSION:
        raise ExperimentError(f"{path} was written by a newer paredown; please upgrade")
    try:
        return _ROWS.validate_python(document.get("results"))
    except ValidationError as error:
        fault = error.errors()[0]
        raise ExperimentError(f"{path} is damaged: {fault['msg']}; delete it and resume") from None


def write_elsewhere(folder: Path, rows: Sequence[Elsewhere]) -> None:
    """Write all of it anew."""
    document = {"schema_version": SCHEMA_VERSION, "results": [plain(row) for row in rows]}
    write_json(folder / FILE, document)
