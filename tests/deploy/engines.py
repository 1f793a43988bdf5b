"""An engine whose server is `fake`, and packages for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from paredown.deploy.package import (
    MODEL,
    PackageRecord,
    Previous,
    ServingSettings,
    version_of,
    write_documents,
    write_sums,
)
from paredown.deploy.proof import FILE
from paredown.runtimes import registry
from paredown.runtimes.base import Claim, Engine, Needs, Package, Serving
from paredown.runtimes.session import Session
from paredown.store.atomic import write_json
from tests.deploy.fake import CONTEXT, SLOTS
from tests.deploy.fake import MODEL as NAME
from tests.deploy.proofs import proof

USUAL = Serving()
ROOT = Path(__file__).parents[2]


class FakeEngine(Engine):
    """Holds everything, serves `fake` as its file `behaviour` says."""

    name, summary, source, needs = "fake", "for tests", "tests", Needs()

    def holds(self, *args: Any, **options: Any) -> Claim:
        return Claim(holds=True)

    def export(self, artifact: Path, out: Path) -> Package:
        raise NotImplementedError

    def open(self, folder: Path, **options: Any) -> Session:
        raise NotImplementedError

    def server(
        self, package: Package, *, host: str, port: int, serving: Serving = USUAL
    ) -> tuple[str, ...]:
        behaviour = (package.folder / "behaviour").read_text()
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.deploy.fake import main"
        return sys.executable, "-c", f"{code}; main({str(port)!r}, {behaviour!r})"


def install() -> None:
    """Register the engine in this process."""
    registry.BUILTIN["fake"] = "tests.deploy.engines:FakeEngine"


def make_package(
    folder: Path, behaviour: str = "good", *, previous: Previous | None = None, **settings: Any
) -> Path:
    """A package of the fake engine."""
    (folder / MODEL).mkdir(parents=True)
    (folder / MODEL / "behaviour").write_text(behaviour)
    record = PackageRecord(
        name=NAME, runtime="fake", version=version_of(folder / MODEL), nbytes=4, base="b",
        base_hash=None, strategy="rtn", artifact_hash="0", context=CONTEXT, license=None,
        libraries={}, previous=previous,
    )  # fmt: skip
    usual = {"name": NAME, "context": CONTEXT, "slots": SLOTS, "threads": 1, "memory_bytes": 10**9}
    write_documents(folder, record, ServingSettings.model_validate(usual | settings))
    write_json(folder / FILE, proof())
    write_sums(folder)
    return folder
