"""Which entries of a cache running jobs have touched, told between processes through files.

Each holding process has a file of its own, locked as long as the process lives, with a line per
entry. A lock ends with its process however that ends, so nothing is held for a dead one.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, ClassVar, Self, final

_FOLDER = ".holds"


@final
class Hold:
    """While entered, entries of a cache that this process touches are not evicted."""

    _open: ClassVar[dict[tuple[Path, int], BinaryIO]] = {}
    """By cache and process: a forked child has the parent's table, and is not the parent."""

    def __init__(self, cache: Path) -> None:
        self._key = (cache, os.getpid())
        self._mine = False

    def __enter__(self) -> Self:
        cache, pid = self._key
        if self._key not in Hold._open:  # else an outer block of this process holds already
            (cache / _FOLDER).mkdir(parents=True, exist_ok=True)
            file = (cache / _FOLDER / str(pid)).open("ab")
            fcntl.flock(file, fcntl.LOCK_EX)
            Hold._open[self._key] = file
            self._mine = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._mine:
            file = Hold._open.pop(self._key)
            Path(file.name).unlink(missing_ok=True)
            file.close()

    @staticmethod
    def touch(cache: Path, entry: Path) -> None:
        """Note an entry, if this process holds what it touches."""
        file = Hold._open.get((cache, os.getpid()))
        if file is not None:
            file.write(f"{entry.relative_to(cache)}\n".encode())
            file.flush()


def held(cache: Path) -> set[Path]:
    """Entries that live processes hold; the files of dead ones are removed."""
    found: set[Path] = set()
    for file in (cache / _FOLDER).glob("*"):
        try:
            with file.open("rb") as opened:
                if not _is_locked(opened, file):
                    file.unlink(missing_ok=True)
                    continue
                lines = opened.read().decode().splitlines()
        except FileNotFoundError:  # its process has just ended
            continue
        found.update(cache / line for line in lines)
    return found


def _is_locked(opened: BinaryIO, file: Path) -> bool:
    if file.name == str(os.getpid()):  # one's own lock does not stop oneself
        return True
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
