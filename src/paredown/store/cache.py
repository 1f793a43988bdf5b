"""A cache of files and folders keyed by the content they were computed from.

Keys are any JSON value that names *everything* a result depends on; equal keys share one entry.
Beside each entry lies its checksum: what a disk, a full quota or a kill has damaged is said,
dropped, and computed again, because it would otherwise become another artifact without a word. The
least recently used entries go first when the cache outgrows its limit, but none of a running job.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paredown.errors import ConfigError
from paredown.spec.reading import read_object
from paredown.spec.serial import content_hash
from paredown.spec.units import GB
from paredown.store.atomic import clear_disk_errors, folder_bytes, sync, write_json
from paredown.store.holds import Hold, held
from paredown.store.home import home

log = logging.getLogger(__name__)

_ABANDONED_S = 3600.0
"""A temporary file this old was left by a worker that was killed."""
_IN_USE_S = 600.0
"""An entry used this recently may be about to be read by another worker, and is not evicted."""
_SUM = ".sum"
"""Ending of the file that holds an entry's checksum."""


@dataclass(frozen=True)
class Cache:
    """Files or folders under `folder`, one per (kind, key), together at most `limit_bytes`."""

    folder: Path
    limit_bytes: float = 20 * GB

    @staticmethod
    def default() -> Cache:
        """The user's cache; `PAREDOWN_CACHE_GB` sets its limit.

        Raises:
            ConfigError: the limit is no number of gigabytes.
        """
        told = os.environ.get("PAREDOWN_CACHE_GB", "20")
        try:
            limit = float(told)
        except ValueError:
            limit = -1.0
        if not 0 <= limit < float("inf"):  # NaN compares false
            raise ConfigError(
                f"PAREDOWN_CACHE_GB: must be a number of gigabytes, got {told[:40]!r}"
            )
        return Cache(home() / "cache", limit * GB)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep every entry that this process touches in the block, however full the cache gets.

        For a job: its own results of an hour ago are read again at its end.
        """
        with Hold(self.folder):
            yield

    def path(self, kind: str, key: Any, suffix: str) -> Path:
        """Where the result of `key` is, or would be."""
        return self.folder / kind / f"{content_hash(key, length=32)}{suffix}"

    def get(self, kind: str, key: Any, suffix: str) -> Path | None:
        """The stored entry, whole and marked as just used, or None."""
        path = self.path(kind, key, suffix)
        Hold.touch(self.folder, path)  # before the look, so that it cannot go in between
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        fault = _fault(path)
        if fault:
            log.warning("cache: %s %s; it is dropped and computed again", path, fault)
            _remove(path)
            return None
        return path

    def put(self, kind: str, key: Any, suffix: str, write: Callable[[Path], object]) -> Path:
        """Let `write` create the file of `key` under a temporary name, then move it in place."""
        path = self.path(kind, key, suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}.{os.getpid()}{suffix}")
        Hold.touch(self.folder, path)
        with clear_disk_errors(path):
            try:
                write(partial)
                _seal(partial, path)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        self._evict(keep=path)
        return path

    def adopt(self, kind: str, key: Any, folder: Path) -> Path:
        """Move a finished folder into the cache; one that is there already wins."""
        path = self.path(kind, key, "")
        Hold.touch(self.folder, path)
        with clear_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                partial = path.with_name(f".{path.name}.{os.getpid()}")
                shutil.move(folder, partial)  # which copies from another file system
                _seal(partial, path)
                partial.rename(path)
        self._evict(keep=path)
        return path

    def get_or_put(self, kind: str, key: Any, suffix: str, write: Callable[[Path], object]) -> Path:
        """The stored file; computed by `write` the first time, and again if it is damaged."""
        return self.get(kind, key, suffix) or self.put(kind, key, suffix, write)

    def drop(self, kind: str, key: Any, suffix: str) -> None:
        """Remove an entry that is of no more use."""
        _remove(self.path(kind, key, suffix))

    def _evict(self, *, keep: Path) -> None:
        """Sweep what killed workers left, then the least recently used entries beyond the limit."""
        entries = []
        for file in self.folder.glob("*/*"):
            try:
                status = file.stat()
            except FileNotFoundError:  # another worker evicted it
                continue
            age_s = time.time() - status.st_mtime
            if file.name.startswith(".") or _is_orphan(file):
                if age_s >= _ABANDONED_S:  # else another worker is writing it
                    _remove(file)
            elif not file.name.endswith(_SUM):
                size = folder_bytes(file) if file.is_dir() else status.st_size
                entries.append((status.st_mtime, size, file))
        total = sum(size for _, size, _ in entries)
        if total <= self.limit_bytes:
            return
        kept = held(self.folder) | {keep}
        for used, size, file in sorted(entries):
            if total <= self.limit_bytes:
                return
            if file not in kept and time.time() - used > _IN_USE_S:
                _remove(file)
                total -= size


def _sum_of(path: Path) -> Path:
    return path.with_name(path.name + _SUM)


def _is_orphan(file: Path) -> bool:
    """Whether a checksum's entry is gone."""
    return file.name.endswith(_SUM) and not file.with_name(file.name[: -len(_SUM)]).exists()


def _seal(partial: Path, path: Path) -> None:
    """Bring a finished entry to the disk, and its checksum beside where it will be.

    In this order, and before the rename: after a power failure, an entry with a checksum that fits
    is whole, and any other is computed again.
    """
    for file in _files(partial):
        sync(file)
    write_json(_sum_of(path), {"files": _checksums(partial)})


def _fault(path: Path) -> str | None:
    """Why an entry is not known to be what was put there; None if it is."""
    if not _sum_of(path).exists():  # an older version put it there, or its file was lost
        return "has no checksum"
    try:
        told = read_object(_sum_of(path))
        whole = told.get("files") == _checksums(path)
    except ConfigError:
        return "has a damaged checksum"
    except OSError as error:  # another worker may have just evicted it
        return f"cannot be read ({error.strerror})"
    return None if whole else "is damaged"


def _files(path: Path) -> list[Path]:
    return sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]


def _checksums(path: Path) -> dict[str, str]:
    """SHA-256 by the name within the entry; the name of a lone file is empty."""
    found = {}
    for file in _files(path):
        with file.open("rb") as opened:
            name = str(file.relative_to(path)) if file != path else ""
            found[name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found


def _remove(path: Path) -> None:
    """Remove an entry and its checksum, the checksum last: alone, it is harmless."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    with suppress(OSError):
        _sum_of(path).unlink(missing_ok=True)
