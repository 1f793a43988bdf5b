"""What files hold, as hashes: things are told apart by their content, never by a path or a name.

Large files are hashed once: the result is remembered by what the file system says of the file
(which inode, how long, when written and when changed), so that a copied time stamp hides nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from paredown.spec.progress import Progress, unheard
from paredown.spec.serial import content_hash
from paredown.store.cache import Cache

_LARGE = 1 << 23
"""Bytes from which a file's hash is remembered; reading a smaller one is as fast."""
_SETTLED_S = 2.0
"""A file that was written within this time may be written again under the same time stamp."""
_SAYS_NOTHING = {
    ".md", ".rst", ".pdf", ".html", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".log", ".csv",
    ".pt", ".pth",
}  # fmt: skip
"""Endings of files in a model folder that no loader reads: words, pictures, states of trainings."""
_DESCRIBED = "paredown.json"
"""Gets measurements added, so it is no part of what a model is."""
_COMPUTES = ("paredown", "torch", "transformers")


@cache
def code(number: int) -> dict[str, Any]:
    """The part of a key that says which code computed a result.

    Args:
        number: of the caller's own kind of result; goes up whenever the same input would give
            another result, which the version of the package does not tell while it is developed.
    """
    return {"code": number, "versions": {name: _version(name) for name in _COMPUTES}}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def file_hash(path: Path, tell: Callable[[int], None] = lambda nbytes: None) -> str:
    """SHA-256 of a file's bytes.

    Args:
        path: the file.
        tell: told how many bytes were read since it was told last; nothing where none are.
    """
    status = path.stat()
    written = max(status.st_mtime, status.st_ctime)
    if status.st_size < _LARGE or time.time() - written < _SETTLED_S:
        return _digest(path, tell)
    kept = Cache.default().get_or_put(
        "hashes", file_stamp(path), ".txt", lambda memo: memo.write_text(_digest(path, tell))
    )
    return kept.read_text()


def file_stamp(path: Path) -> list[int]:
    """What changes when a file does: device, inode, bytes, and when it was written and changed.

    The time of the last change cannot be set, unlike that of the last writing.
    """
    found = path.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _digest(path: Path, tell: Callable[[int], None]) -> str:
    digest, buffer = hashlib.sha256(), bytearray(_LARGE)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            tell(count)
    return digest.hexdigest()


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of all files of a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return content_hash([(str(f.relative_to(folder)), file_hash(f)) for f in files], length=64)


def model_files(folder: Path, progress: Progress = unheard) -> dict[str, str]:
    """SHA-256 of every file in a model folder that decides what the model answers, by its name.

    Weights, and just as well config, tokenizer, chat template, generation settings and code: with
    another rotary base or vocabulary the same weights are another model. `progress` is told of
    files that are read; of a model of gigabytes, that takes minutes the first time.
    """
    files = sorted(file for file in folder.rglob("*") if _decides(folder, file))
    total, done = max(sum(file.stat().st_size for file in files), 1), 0

    def tell(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(min(done / total, 1.0), f"identifying the model by its content, {folder.name}")

    return {str(file.relative_to(folder)): file_hash(file, tell) for file in files}


def model_hash(folder: Path) -> str:
    """One hash over `model_files`."""
    return content_hash(model_files(folder), length=64)


def _decides(folder: Path, file: Path) -> bool:
    parts = file.relative_to(folder).parts
    hidden = any(part.startswith(".") for part in parts)  # notes of downloaders, with times in them
    said = file.suffix.lower() in _SAYS_NOTHING or file.name == _DESCRIBED
    return not hidden and not said and file.is_file()
