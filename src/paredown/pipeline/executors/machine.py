"""Who may work on a machine, among all processes of paredown on it: see `turns` for the rule.

A run, another run beside it, and the nodes of a cluster that share a machine know nothing of each
other; what they share is two files in a folder of the machine itself, never of a network. A lock on
a file ends with its process however that ends, so nobody waits for the dead.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path

from paredown.errors import ConfigError

LOCKS = "PAREDOWN_LOCKS"
"""Environment variable with the folder of the locks: for containers, whose folders of temporary
files are not those of the machine."""
_LOOK_S = 0.02


@contextmanager
def machine_taken(*, alone: bool, is_stopped: Callable[[], bool]) -> Iterator[float]:
    """The machine, shared with others or `alone`; gives the seconds that it was waited for.

    Two locks: who holds the *room* is at work, alone or with others. Whoever wants to enter goes
    through the *gate*, and one who waits to be alone stands in it, so that nobody else gets in
    between.

    Raises:
        CancelledError: `is_stopped` said so before it came.
        ConfigError: the locks cannot be made.
    """
    start = time.monotonic()
    folder = _folder()
    with _opened(folder / "room.lock") as room:
        with _opened(folder / "gate.lock") as gate:
            _lock(gate, fcntl.LOCK_EX, is_stopped)
            _lock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, is_stopped)
        yield time.monotonic() - start


def _lock(handle: int, how: int, is_stopped: Callable[[], bool]) -> None:
    while True:
        if is_stopped():
            raise CancelledError
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOOK_S)
        else:
            return


def _folder() -> Path:
    """The folder of the locks, which every user of the machine may use."""
    told = os.environ.get(LOCKS)
    folder = Path(told) if told else Path(tempfile.gettempdir()) / "paredown-locks"
    try:
        folder.mkdir(parents=True)
        folder.chmod(0o1777)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(
            f"{folder}: {error.strerror}; name a folder of this machine in {LOCKS}, for the locks "
            "by which nothing else is done while time is measured"
        ) from error
    return folder


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A file to lock: read-only, because another user may have made it."""
    # Not through a link, and without waiting for a writer: the folder is open to all.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        try:
            handle = os.open(path, flags | os.O_CREAT, 0o644)
        except PermissionError:  # Linux lets nobody "create" what another has made in such a folder
            handle = os.open(path, flags)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; choose another folder by {LOCKS}") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ConfigError(f"{path} is no file; remove it, or choose another folder by {LOCKS}")
        yield handle
    finally:
        os.close(handle)
