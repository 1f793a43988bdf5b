"""From what the user calls a model to a local folder."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from paredown.errors import ModelError
from paredown.spec.headers import read_headers
from paredown.spec.infer import infer_remote, infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.reading import read_object
from paredown.spec.remote import hub_error, hub_errors, split_revision

DEMO = "demo"
_TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "spiece*")
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "tokenizer*"]


def locate(name: str) -> Path:
    """The local folder of `name`: `demo`, a folder, or a hub name (`HF_TOKEN` honoured).

    `gpt2` is asked of the hub like `owner/name`; `NAME@REVISION` pins a branch, a tag or a commit.

    Raises:
        ModelError: nothing is there, or the hub cannot be reached; the message says what to do.
    """
    if name == DEMO:
        from paredown.artifact.demo import ensure_demo

        return ensure_demo()
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path.resolve()
        if path.is_file():
            raise ModelError(f"{name} is a file; give the folder that holds config.json")
    except (OSError, RuntimeError) as error:  # too long; a loop of links; no such user's home
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"no model at {name[:80]!r}: {reason}") from None
    near = get_close_matches(name, [DEMO, *_neighbours(path)], n=1)
    hint = f"did you mean {near[0]!r}?" if near else "give a local folder, a hub name, or 'demo'"
    if not is_hub_name(name):
        raise ModelError(f"no model at {name!r}: there is no such folder; {hint}")
    try:
        return cached(name) or _download(name)
    except ModelError as error:
        if "/" in name:
            raise
        # One word may be a model of the hub, such as gpt2, or a folder that was misspelt.
        raise ModelError(
            f"no model at {name!r}: there is no such folder, and {error}; {hint}"
            if near
            else f"no model at {name!r}: there is no such folder, and {error}"
        ) from None


def is_hub_name(name: str) -> bool:
    """Whether a name that is no folder here may be one of the hub: `owner/name`, or a word."""
    is_path = name.startswith((".", "~")) or Path(name).is_absolute()
    return name != DEMO and not is_path and name.count("/") <= 1


def spec_of(name: str) -> ModelSpec:
    """The spec of what the user calls a model; of a model of the hub that is not here, only its
    config and headers are fetched.

    Raises:
        ModelError: nothing is there, or it cannot be read.
    """
    here = Path(name).expanduser().exists()
    # Offline there is nothing to fetch, and `locate` has the words for it.
    if is_hub_name(name) and not here and not offline() and cached(name) is None:
        return infer_remote(name)
    return infer_spec(locate(name), name=name)


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer of a model has a template for chats, in any of the files that may."""
    if any(folder.glob("chat_template.*")) or (folder / "additional_chat_templates").is_dir():
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(read_object(path, error=ModelError).get("chat_template"))


def _neighbours(path: Path) -> list[str]:
    """The folders beside one that is missing, written as the user wrote it."""
    try:
        return [str(path.parent / f.name) for f in path.parent.iterdir() if f.is_dir()]
    except OSError:  # it is not there either, or may not be read
        return []


def cached(name: str) -> Path | None:
    """The complete snapshot of a hub name in the local cache, if there is one.

    A download that was interrupted leaves a folder like any other; it does not count, so that the
    hub is asked for the rest. What a run without a network needs, it may use.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo, revision = split_revision(name)
    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError, ValueError):
        return None
    if not _has_weights(folder) or (not offline() and _is_unfinished(folder)):
        return None
    return folder


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


def offline() -> bool:
    """Whether the user has forbidden the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}


def _download(name: str) -> Path:
    """Fetch what is missing of a model; what is there already is not fetched again."""
    from huggingface_hub import snapshot_download

    if offline():
        raise ModelError(
            f"{name!r} is not in the local cache and HF_HUB_OFFLINE is set; "
            "unset it, or give a local folder"
        )
    repo, revision = split_revision(name)
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=_FILES))
    except hub_errors() as error:
        raise hub_error(name, error) from None
