"""From what the user calls a model to a local folder."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from paredown.errors import ModelError

DEMO = "demo"
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "tokenizer*"]


def locate(name: str) -> Path:
    """The local folder of `name`: `demo`, a folder, or a hub name (`HF_TOKEN` honoured).

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
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        near = get_close_matches(name, [DEMO, *_neighbours(path)], n=1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else ("give a local folder, a hub name such as 'Qwen/Qwen2.5-0.5B', or 'demo'")
        )
        raise ModelError(f"no model at {name!r}: there is no such folder; {hint}")
    return cached(name) or _download(name)


def _neighbours(path: Path) -> list[str]:
    """The folders beside one that is missing, written as the user wrote it."""
    try:
        return [str(path.parent / f.name) for f in path.parent.iterdir() if f.is_dir()]
    except OSError:  # it is not there either, or may not be read
        return []


def cached(name: str) -> Path | None:
    """The complete snapshot of a hub name in the local cache, if there is one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError, ValueError):
        return None
    complete = (folder / "config.json").exists() and any(folder.glob("*.safetensors"))
    return folder if complete else None


def offline() -> bool:
    """Whether the user has forbidden the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if offline():
        raise ModelError(
            f"{name!r} is not in the local cache and HF_HUB_OFFLINE is set; "
            "unset it, or give a local folder"
        )
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except GatedRepoError:
        raise ModelError(f"{name!r} is gated: accept its terms and set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"the hub has no model {name!r} (or it is private: set HF_TOKEN)"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        first = str(error).splitlines()[0]
        raise ModelError(
            f"cannot reach the hub for {name!r} ({first}); check the network, "
            "or give a local folder"
        ) from None
