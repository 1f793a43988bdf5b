"""Models of ModelScope, `modelscope:OWNER/NAME[@REVISION]`: the only file that knows its library.

Its cache is its library's (`MODELSCOPE_CACHE`). Headers cannot be read apart from the weights,
so the spec of a model that is not here takes its download.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from paredown.artifact.hub import UNWANTED, WANTED, offline, require_disk
from paredown.errors import MissingExtraError, ModelError
from paredown.spec.headers import read_headers
from paredown.spec.progress import Progress, unheard
from paredown.spec.redact import first_line
from paredown.spec.remote import split_revision
from paredown.spec.units import human_bytes

PREFIX = "modelscope:"


def fetch(name: str, progress: Progress = unheard) -> Path:
    """The local folder of a model of ModelScope; what is not here is downloaded.

    Args:
        name: with `PREFIX`.

    Raises:
        MissingExtraError: its library is not installed.
        ModelError: no such model, unreachable, forbidden, or too large for the disk.
    """
    repo, revision = split_revision(name.removeprefix(PREFIX))
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ModelError(f"{name[:80]!r} is no name of ModelScope; write {PREFIX}OWNER/NAME")
    download = _downloader(name)
    asked: dict[str, Any] = {
        "revision": revision, "allow_patterns": WANTED, "ignore_patterns": UNWANTED
    }  # fmt: skip
    if (here := _cached(download, repo, asked)) is not None:
        return here
    if offline():
        raise ModelError(
            f"{name!r} is not complete in ModelScope's cache, and HF_HUB_OFFLINE is set; unset it, "
            "or give a local folder"
        )
    try:
        _require_room(name, repo, revision, progress)
        return Path(download(repo, **asked))
    except _errors() as error:
        raise ModelError(
            f"ModelScope does not give {name!r} ({first_line(error)}); check the name and the "
            "network, or give a local folder"
        ) from None


def _cached(download: Any, repo: str, asked: dict[str, Any]) -> Path | None:
    """The complete snapshot in the library's cache, if there is one."""
    try:
        here = Path(download(repo, local_files_only=True, **asked))
        read_headers(here)
    except ModelError:  # not all of it is here
        return None
    except _errors():  # nor is any of it
        return None
    return here


def _errors() -> tuple[type[Exception], ...]:
    """What the library raises: its own, and those of its HTTP client, which are `OSError`s."""
    from modelscope.hub.errors import HubError

    hub: type[Exception] = HubError
    return hub, OSError, ValueError


def _downloader(name: str) -> Any:
    """The library's `snapshot_download`."""
    try:
        from modelscope.hub.snapshot_download import snapshot_download
    except ImportError:
        raise MissingExtraError(f"model {name!r}", "modelscope", "modelscope") from None
    return snapshot_download


def _require_room(name: str, repo: str, revision: str | None, progress: Progress) -> None:
    from modelscope.hub.api import HubApi

    files = HubApi().get_model_files(repo, revision=revision, recursive=True)
    kept = [f for f in files if _is_wanted(str(f["Path"]))]
    nbytes = sum(int(f.get("Size") or 0) for f in kept)
    home = os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope"
    free = require_disk(name, nbytes, Path(home), "set MODELSCOPE_CACHE to another disk")
    size = human_bytes(nbytes)
    progress(0.0, f"downloading {size} of {name} ({human_bytes(free)} of disk are free)")


def _is_wanted(path: str) -> bool:
    from fnmatch import fnmatch

    wanted = any(fnmatch(path, pattern) for pattern in WANTED)
    return wanted and not any(fnmatch(path, pattern) for pattern in UNWANTED)
