"""A package as a folder: what lies in it, what it is, and whether a byte of it has changed.

`SHA256SUMS` is in the form of coreutils, so that `sha256sum --check` reads it where there is no
paredown. Only `serving.json` is left out of it: that file is the operators' to change.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from paredown.deploy.proof import FILE as PROOF
from paredown.deploy.proof import Proof, read_proof
from paredown.errors import ConfigError
from paredown.spec.reading import read_object, read_text
from paredown.spec.serial import SCHEMA_VERSION, content_hash
from paredown.spec.units import human_bytes
from paredown.store.atomic import write_json, write_text
from paredown.store.content import file_hash

RECORD = "package.json"
SERVING = "serving.json"
SUMS = "SHA256SUMS"
MODEL = "model"
"""Folder of the engine's files."""
_UNSUMMED = {SUMS, SERVING}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Previous(_Record):
    """The package that was served before."""

    version: str
    folder: str
    """Relative to this package, or absolute."""


R = TypeVar("R", bound=BaseModel)


class PackageRecord(_Record):
    """`package.json`: what a package is."""

    schema_version: int = SCHEMA_VERSION
    name: str
    """Of the package, and of its image and unit."""
    runtime: str
    version: str
    """Hash of the engine's files: equal versions answer alike."""
    nbytes: int
    """Of the weights files."""
    base: str
    """The uncompressed model, by name."""
    base_hash: str | None
    strategy: str
    """How it was compressed; empty for a base as it is."""
    artifact_hash: str
    context: int | None
    """Tokens that the model takes."""
    license: str | None
    """Of the base, as its card says; None: it does not say."""
    libraries: dict[str, str]
    """Versions that made the files, and that serve them."""
    previous: Previous | None = None


class ServingSettings(_Record):
    """`serving.json`: how a package is served; every number may be changed by hand."""

    schema_version: int = SCHEMA_VERSION
    name: str
    """Under which the model is listed."""
    host: str = "127.0.0.1"
    port: int = 8080
    context: int
    """Tokens of one request, prompt and answer together."""
    slots: int
    """Requests at once."""
    queue: int | None = None
    """Requests that may wait; further ones are refused (429). None: the server's own default."""
    threads: int
    """Of the processor."""
    cache: str | None = None
    """How keys and values are stored, in the engine's own words; None: its default."""
    memory_bytes: int
    """That the server may take; readiness compares what it took with it."""
    derived: tuple[str, ...] = ()
    """How the numbers came about, in words."""


def read_record(folder: Path) -> PackageRecord:
    """What a package says of itself.

    Raises:
        ConfigError: there is no package in `folder`, or its record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        raise ConfigError(f"{folder} is no package (it has no {RECORD}); make one with deploy")
    return _validated(PackageRecord, path)


def read_settings(folder: Path) -> ServingSettings:
    """How a package is served.

    Raises:
        ConfigError: the file is missing, or a value in it is wrong.
    """
    return _validated(ServingSettings, folder / SERVING)


def package_proof(folder: Path) -> Proof:
    """The proof within a package.

    Raises:
        ConfigError: it is missing or damaged.
    """
    return read_proof(folder / PROOF)


def version_of(folder: Path) -> str:
    """Hash over names and contents of the engine's files in a folder."""
    return content_hash(_hashes(folder), length=64)


def write_sums(folder: Path) -> None:
    """Write `SHA256SUMS` over all files of a package."""
    lines = [f"{digest}  {name}" for name, digest in _hashes(folder).items()]
    write_text(folder / SUMS, "\n".join(lines) + "\n")


def verify(folder: Path) -> int:
    """See that every byte is as it was made; returns how many files there are.

    Raises:
        ConfigError: a file is missing, was changed or was added, with its name.
    """
    told = {}
    for line in read_text(folder / SUMS, error=ConfigError).splitlines():
        digest, _, name = line.partition("  ")
        told[name] = digest
    found = _hashes(folder)
    for name, digest in told.items():
        if name not in found:
            raise ConfigError(f"{folder}: {name} is missing; copy the package again")
        if found[name] != digest:
            size = human_bytes((folder / name).stat().st_size)
            raise ConfigError(
                f"{folder}: {name} ({size}) is not as it was made: its SHA-256 begins with "
                f"{found[name][:12]}, not {digest[:12]}; copy the package again"
            )
    if more := sorted(found.keys() - told.keys()):
        raise ConfigError(f"{folder}: {more[0]} is none of the package's files; move it away")
    return len(told)


def write_documents(folder: Path, record: PackageRecord, settings: ServingSettings) -> None:
    """Write the two records of a package."""
    write_json(folder / RECORD, record)
    write_json(folder / SERVING, settings)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    names = {f.relative_to(folder).as_posix(): f for f in files}
    return {name: file_hash(f) for name, f in names.items() if name not in _UNSUMMED}


def _validated(kind: type[R], path: Path) -> R:
    document = read_object(path, error=ConfigError, mend="the package is damaged")
    version = document.get("schema_version", 1)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ConfigError(f"{path} was written by a newer paredown; please upgrade")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"{path}: {where}: {fault['msg']}") from None
