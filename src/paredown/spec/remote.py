"""What the hub tells of a model without its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from paredown.errors import ModelError
from paredown.spec.headers import CONFIG, known_dtype, read_object_of_model
from paredown.spec.model import TensorInfo
from paredown.spec.redact import first_line, shown


def split_revision(name: str) -> tuple[str, str | None]:
    """Hub name and revision (branch, tag or commit) of `owner/name@revision`."""
    repo, at, revision = name.partition("@")
    return repo, revision if at else None


def remote_headers(
    name: str, token: str | None = None
) -> tuple[dict[str, Any], tuple[TensorInfo, ...]]:
    """Config and stored tensors of a model on the hub; no weights are downloaded.

    Args:
        name: hub name, `owner/name` or `owner/name@revision`.
        token: None takes `HF_TOKEN` or the saved login.

    Raises:
        ModelError: offline, no such model, gated, or without safetensors.
    """
    from huggingface_hub import HfApi

    repo, revision = split_revision(name)
    try:
        api = HfApi(token=token)
        # The config first: of a model that is not there, or gated, the other call says no more than
        # that it has no safetensors files.
        config = read_object_of_model(Path(api.hf_hub_download(repo, CONFIG, revision=revision)))
        files = api.get_safetensors_metadata(repo, revision=revision).files_metadata
    except hub_errors() as error:
        raise hub_error(name, error) from None
    tensors = (
        known_dtype(tensor, str(info.dtype), tuple(info.shape), name)
        for file in files.values()
        for tensor, info in file.tensors.items()
    )
    return config, tuple(sorted(tensors, key=lambda tensor: tensor.name))


def hub_errors() -> tuple[type[Exception], ...]:
    """What the hub's library raises; `hub_error` has the words for each."""
    from huggingface_hub import errors

    anything: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of any HTTP client
    return (
        anything, OSError, errors.HFValidationError, errors.NotASafetensorsRepoError,
        errors.SafetensorsParsingError,
    )  # fmt: skip


def hub_error(name: str, error: Exception) -> ModelError:
    """The reason why the hub does not give a model, with what can be done about it."""
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE and isinstance(error, errors.LocalEntryNotFoundError):
        # Of a file that the cache lacks the library says no more than that it did not find it.
        error = errors.OfflineModeIsEnabled()
    _, revision = split_revision(name)
    told = repr(name)
    match error:
        case errors.GatedRepoError():
            text = f"{told} is gated: accept its terms on its hub page and set HF_TOKEN"
        case errors.RepositoryNotFoundError():
            text = (
                f"the hub has no model {told} (or it is private: set HF_TOKEN); check the name, "
                "or give a local folder"
            )
        case errors.RevisionNotFoundError():
            text = f"{told}: there is no branch, tag or commit {revision!r}; see its hub page"
        case errors.NotASafetensorsRepoError() | errors.RemoteEntryNotFoundError():
            text = (
                f"{told} has no safetensors weights or no {CONFIG}; choose another model, or "
                "convert it to a local folder with safetensors files"
            )
        case errors.SafetensorsParsingError():
            text = f"{told} holds a damaged file: {first_line(error)}"
        case errors.HFValidationError():
            text = f"{told[:80]} is no hub name; write owner/name or owner/name@revision"
        case errors.OfflineModeIsEnabled():
            text = (
                f"{told} is not in the local cache and HF_HUB_OFFLINE is set; unset it, or give "
                "a local folder"
            )
        case _:
            text = _refused(told, error) or (
                f"cannot reach the hub{_endpoint()} for {told} ({first_line(error)}); check the "
                "network, or give a local folder"
            )
    return ModelError(text)


def _endpoint() -> str:
    """Where the hub is, if the user has named a mirror; a user or password in it is not shown."""
    from huggingface_hub import constants

    named = os.environ.get("HF_ENDPOINT")
    return f" at {shown(constants.ENDPOINT)} (HF_ENDPOINT)" if named else ""


def _refused(told: str, error: Exception) -> str | None:
    """Words for an answer of the hub that is a refusal; None where there was no answer."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in {401, 403}:
        return f"the hub refuses {told} ({status}: {first_line(error)}); check HF_TOKEN"
    if isinstance(status, int) and 400 <= status < 500:
        return f"the hub does not give {told} ({status}: {first_line(error)}); check the name"
    return None
