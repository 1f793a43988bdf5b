"""Files and folders that are either complete or not there."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paredown.errors import ConfigError
from paredown.spec.serial import readable

_NOT_WRITABLE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR,
    errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
_YOUNG_S = 5.0
"""Age below which a partial folder may be another process's that has not locked it yet."""


def require_writable(path: Path) -> None:
    """Show that files can be written in `path`, or in the folder where it will be created.

    Raises:
        ConfigError: they cannot.
    """
    with clear_disk_errors(path):
        try:
            existing = path.resolve()
        except RuntimeError:  # what Python 3.11 and 3.12 make of a loop of links
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
        while not existing.exists():
            existing = existing.parent
        with tempfile.TemporaryFile(dir=existing):
            pass


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to a temporary name beside `path`, flush it to disk, and rename it.

    Raises:
        ConfigError: the disk is full, or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with clear_disk_errors(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                # To the disk before the rename, which alone may reach it first: a name with nothing
                # in it.
                file.flush()
                os.fsync(file.fileno())
            # mkstemp lets only the owner read.
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes`, for UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_bytes`, for readable JSON (pydantic models included)."""
    write_text(path, readable(value))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty sibling folder; rename it to `path` on success, delete it on failure.

    An existing folder at `path` is replaced only once the new one is complete. What a process that
    was killed has left of such a sibling is deleted first.
    """
    with clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name}.partial-"
        _delete_abandoned(path.parent, prefix)
        partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix))
        lock = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # mkdtemp lets only the owner in.
            partial.chmod(0o755)
            yield partial
            if path.exists():
                shutil.rmtree(path)
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            os.close(lock)


def _delete_abandoned(parent: Path, prefix: str) -> None:
    """Delete partial folders whose process is gone: with it went the lock."""
    for partial in parent.glob(f"{glob.escape(prefix)}*"):
        try:
            # One that was made just now may not be locked yet.
            if time.time() - partial.stat().st_mtime < _YOUNG_S:
                continue
            lock = os.open(partial, os.O_RDONLY)
        except OSError:  # gone by now, or another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(partial, ignore_errors=True)
        except OSError:  # its process lives
            pass
        finally:
            os.close(lock)


@contextmanager
def clear_disk_errors(path: Path) -> Iterator[None]:
    """Turn 'disk full' and 'not writable' into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ConfigError(
                f"the disk is full: could not write {path}; free some space, or choose another "
                "folder with --output-dir (caches: PAREDOWN_HOME)"
            ) from error
        if error.errno == errno.EFBIG:
            raise ConfigError(
                f"{path} would be larger than this process may write (ulimit -f) or the file "
                "system holds; raise the limit, or choose another folder"
            ) from error
        if error.errno in _NOT_WRITABLE:
            shown = str(path) if len(str(path)) <= 300 else f"{str(path)[:300]}..."
            raise ConfigError(
                f"cannot write {shown}: {error.strerror}; choose another folder"
            ) from error
        raise


def sync(file: Path) -> None:
    """Bring a file's content to the disk: a rename alone may reach it first."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def folder_bytes(path: Path, pattern: str = "**/*") -> int:
    """Bytes of all files below `path` that match `pattern`."""
    return sum(f.stat().st_size for f in path.glob(pattern) if f.is_file())
