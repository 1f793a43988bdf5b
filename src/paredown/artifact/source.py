"""From what the user calls a model to a local folder."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from paredown.artifact import modelscope
from paredown.artifact.hub import cached, download, offline
from paredown.errors import ModelError
from paredown.spec.infer import infer_remote, infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.progress import Progress, unheard
from paredown.spec.reading import read_object

DEMO = "demo"


def locate(name: str, progress: Progress = unheard) -> Path:
    """The local folder of `name`: `demo`, a folder, or a hub name (`HF_TOKEN` honoured).

    `gpt2` is asked of the hub like `owner/name`; `NAME@REVISION` pins a branch, a tag or a commit;
    `modelscope:OWNER/NAME` is asked of ModelScope.

    Args:
        progress: told how much is downloaded, before it is.

    Raises:
        ModelError: nothing is there, or the hub cannot be reached; the message says what to do.
    """
    if name == DEMO:
        from paredown.artifact.demo import ensure_demo

        return ensure_demo()
    if name.startswith(modelscope.PREFIX):
        return modelscope.fetch(name, progress)
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
        return cached(name) or download(name, progress)
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
    is_elsewhere = name == DEMO or name.startswith(modelscope.PREFIX)
    return not is_elsewhere and not is_path and name.count("/") <= 1


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
