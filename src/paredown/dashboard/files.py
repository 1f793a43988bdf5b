"""Files parsed once: what refreshes every few seconds must not parse what has not changed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast, final

from paredown.store.events import EventReader

_T = TypeVar("_T")
_Signature = tuple[int, int, int]
_KEPT = 256
"""Parsed files that are kept; the oldest give way."""


def signature(path: Path) -> _Signature | None:
    """What changes when a file is replaced or grows; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@final
class Files:
    """Parsed files and event logs, shared by all who look."""

    def __init__(self) -> None:
        self._parsed: dict[tuple[Path, str], tuple[object, object]] = {}
        self._logs: dict[Path, EventReader] = {}
        self._lock = threading.Lock()

    def get(self, path: Path, parse: Callable[[Path], _T], *beside: Path) -> _T:
        """What `parse` makes of a file, parsed again only when it has changed.

        Args:
            path: given to `parse`; need not exist.
            parse: a function of its own name.
            beside: other files that it reads.
        """
        key = path, f"{parse.__module__}.{parse.__qualname__}"
        now = tuple(signature(file) for file in (path, *beside))
        with self._lock:
            kept = self._parsed.get(key)
        if kept is not None and kept[0] == now:
            return cast("_T", kept[1])
        found = parse(path)
        with self._lock:
            self._parsed.pop(key, None)
            self._parsed[key] = now, found  # the latest last
            while len(self._parsed) > _KEPT:
                del self._parsed[next(iter(self._parsed))]
        return found

    def events(self, folder: Path) -> EventReader:
        """The event log of an experiment, each line of it read once."""
        with self._lock:
            return self._logs.setdefault(folder, EventReader(folder / "events.jsonl"))
