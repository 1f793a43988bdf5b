"""Models of the Hugging Face hub: what its cache holds, and how the rest is fetched.

The library's own variables are honoured: `HF_TOKEN`, `HF_HOME`, `HF_HUB_OFFLINE`, and `HF_ENDPOINT`
for mirrors.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from paredown.errors import ModelError
from paredown.spec.headers import read_headers
from paredown.spec.progress import Progress, unheard
from paredown.spec.remote import hub_error, hub_errors, split_revision
from paredown.spec.units import human_bytes

_TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "spiece*")
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "tokenizer*"]
UNWANTED = ["original/*", "onnx/*", "consolidated*.safetensors"]
"""The same weights once more, in other layouts."""


def cached(name: str) -> Path | None:
    """The complete snapshot of a hub name in the local cache, if there is one.

    A download that was interrupted leaves a folder like any other; it does not count, so that the
    hub is asked for the rest. What a run without a network needs, it may use.
    """
    folder = _snapshot(name)
    if folder is None or not _has_weights(folder):
        return None
    return None if not offline() and _is_unfinished(folder) else folder


def download(name: str, progress: Progress = unheard) -> Path:
    """Fetch what is missing of a model; what is there already is not fetched again.

    Raises:
        ModelError: forbidden by HF_HUB_OFFLINE, refused by the hub, or too large for the disk.
    """
    from huggingface_hub import snapshot_download

    if offline():
        raise ModelError(_why_not_here(name))
    repo, revision = split_revision(name)
    _require_room(name, progress)
    try:
        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED
            )
        )
    except hub_errors() as error:
        raise hub_error(name, error) from None


def missing_bytes(name: str) -> int:
    """Bytes of the files of a model that a download would fetch.

    Raises:
        Exception: one of `hub_errors`, as the hub's library has it.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    repo, revision = split_revision(name)
    info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    files = filter_repo_objects(
        info.siblings or [], allow_patterns=WANTED, ignore_patterns=UNWANTED,
        key=lambda file: file.rfilename,
    )  # fmt: skip
    return sum(
        file.size or 0
        for file in files
        if not isinstance(try_to_load_from_cache(repo, file.rfilename, revision=info.sha), str)
    )


def require_disk(name: str, nbytes: int, place: Path, mend: str) -> int:
    """See that a download fits onto the disk of the folder that it goes to.

    Args:
        mend: what the user can do besides freeing some space.

    Returns:
        Bytes that are free.

    Raises:
        ModelError: it does not, with both numbers.
    """
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if nbytes > free:
        raise ModelError(
            f"{name!r}: {human_bytes(nbytes)} would have to be downloaded, and the disk of {place} "
            f"has {human_bytes(free)} left; free some space, or {mend}"
        )
    return free


def offline() -> bool:
    """Whether the user has forbidden the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}


def _require_room(name: str, progress: Progress) -> None:
    from huggingface_hub import constants

    try:
        nbytes = missing_bytes(name)
    except hub_errors():
        return  # the download itself meets the same, and tells it
    free = require_disk(name, nbytes, Path(constants.HF_HUB_CACHE), "set HF_HOME to another disk")
    size = human_bytes(nbytes)
    progress(0.0, f"downloading {size} of {name} ({human_bytes(free)} of disk are free)")


def _snapshot(name: str) -> Path | None:
    """The folder of a revision in the cache, complete or not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo, revision = split_revision(name)
    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError, ValueError):
        return None


def _why_not_here(name: str) -> str:
    """Why a model cannot be had without the hub: the cache and the switch are two things."""
    from huggingface_hub import constants

    repo, revision = split_revision(name)
    cache = Path(constants.HF_HUB_CACHE)
    storage = cache / f"models--{repo.replace('/', '--')}"
    kept, ref = storage / "snapshots", storage / "refs" / (revision or "main")
    commit = ref.read_text().strip() if ref.is_file() else revision
    forbidden = "and HF_HUB_OFFLINE is set, which forbids asking the hub; unset it"
    if commit is not None and (kept / commit).is_dir():
        return (
            f"{name!r} is in the local cache ({cache}) without all of its weights, {forbidden} to "
            "fetch the rest"
        )
    others = sorted(p.name[:12] for p in kept.iterdir()) if kept.is_dir() else []
    if others:
        which = f"at {revision}" if revision else "at its latest revision"
        return (
            f"{repo!r} is in the local cache ({cache}) at {', '.join(others)}, not {which}, "
            f"{forbidden}, or give one of these behind @"
        )
    return f"{name!r} is not in the local cache ({cache}), {forbidden}, or give a local folder"


def _has_weights(folder: Path) -> bool:
    """Whether config and every weights file are there, none of them cut short."""
    try:
        read_headers(folder)
    except ModelError:
        return False
    return True


def _is_unfinished(folder: Path) -> bool:
    """Whether signs of an interrupted download are there: parts of files, or no tokenizer yet."""
    parts = any((folder.parents[1] / "blobs").glob("*.incomplete"))
    return parts or not any(f for pattern in _TOKENIZERS for f in folder.glob(pattern))
