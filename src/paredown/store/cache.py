"""A cache of files and folders keyed by the content they were computed from.

Keys are any JSON value that names *everything* a result depends on; equal keys share one file.
The least recently used files go first when the cache outgrows its limit.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paredown.spec.serial import content_hash
from paredown.spec.units import GB
from paredown.store.atomic import clear_disk_errors, folder_bytes
from paredown.store.home import home

_ABANDONED_S = 3600.0
"""A temporary file this old was left by a worker that was killed."""
_IN_USE_S = 600.0
"""A file used this recently may be about to be read by another worker, and is not evicted."""


@dataclass(frozen=True)
class Cache:
    """Files or folders under `folder`, one per (kind, key), together at most `limit_bytes`."""

    folder: Path
    limit_bytes: float = 20 * GB

    @staticmethod
    def default() -> Cache:
        """The user's cache; `PAREDOWN_CACHE_GB` sets its limit."""
        limit = float(os.environ.get("PAREDOWN_CACHE_GB", "20"))
        return Cache(home() / "cache", limit * GB)

    def path(self, kind: str, key: Any, suffix: str) -> Path:
        """Where the result of `key` is, or would be."""
        return self.folder / kind / f"{content_hash(key, length=32)}{suffix}"

    def get(self, kind: str, key: Any, suffix: str) -> Path | None:
        """The stored file, marked as just used, or None."""
        path = self.path(kind, key, suffix)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def put(self, kind: str, key: Any, suffix: str, write: Callable[[Path], object]) -> Path:
        """Let `write` create the file of `key` under a temporary name, then move it in place."""
        path = self.path(kind, key, suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}.{os.getpid()}{suffix}")
        with clear_disk_errors(path):
            try:
                write(partial)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        self._evict(keep=path)
        return path

    def adopt(self, kind: str, key: Any, folder: Path) -> Path:
        """Move a finished folder into the cache; one that is there already wins."""
        path = self.path(kind, key, "")
        with clear_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                partial = path.with_name(f".{path.name}.{os.getpid()}")
                shutil.move(folder, partial)  # which copies from another file system
                partial.rename(path)
        self._evict(keep=path)
        return path

    def get_or_put(self, kind: str, key: Any, suffix: str, write: Callable[[Path], object]) -> Path:
        """The stored file; computed by `write` the first time."""
        return self.get(kind, key, suffix) or self.put(kind, key, suffix, write)

    def _evict(self, *, keep: Path) -> None:
        entries = []
        for file in self.folder.glob("*/*"):
            try:
                status = file.stat()
            except FileNotFoundError:  # another worker evicted it
                continue
            unfinished = file.name.startswith(".") and time.time() - status.st_mtime < _ABANDONED_S
            if not unfinished:  # else another worker is writing it
                size = folder_bytes(file) if file.is_dir() else status.st_size
                entries.append((status.st_mtime, size, file))
        total = sum(size for _, size, _ in entries)
        for used, size, file in sorted(entries):
            if total <= self.limit_bytes:
                return
            if file != keep and time.time() - used > _IN_USE_S:
                _remove(file)
                total -= size


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
