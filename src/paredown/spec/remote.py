"""What the hub tells of a model without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paredown.errors import ModelError
from paredown.spec.headers import CONFIG, known_dtype, read_object_of_model
from paredown.spec.model import TensorInfo
from paredown.spec.redact import first_line


def remote_headers(
    repo_id: str, token: str | None = None
) -> tuple[dict[str, Any], tuple[TensorInfo, ...]]:
    """Config and stored tensors of a model on the hub; no weights are downloaded.

    Args:
        repo_id: hub name, `owner/name`.
        token: None takes `HF_TOKEN` or the saved login.

    Raises:
        ModelError: offline, no such model, gated, or without safetensors.
    """
    from huggingface_hub import HfApi, errors

    unreachable: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # any HTTP client
    try:
        api = HfApi(token=token)
        files = api.get_safetensors_metadata(repo_id).files_metadata
        config = read_object_of_model(Path(api.hf_hub_download(repo_id, CONFIG)))
    except errors.GatedRepoError:
        raise ModelError(
            f"{repo_id!r} is gated: accept its terms on its hub page and set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"the hub has no model {repo_id!r} (or it is private: set HF_TOKEN); check the name, "
            "or give a local folder"
        ) from None
    except (errors.NotASafetensorsRepoError, errors.RemoteEntryNotFoundError):
        raise ModelError(
            f"{repo_id!r} has no safetensors weights or no {CONFIG}; choose another model, or "
            "convert it to a local folder with safetensors files"
        ) from None
    except errors.SafetensorsParsingError as error:
        raise ModelError(f"{repo_id!r} holds a damaged file: {first_line(error)}") from None
    except errors.HFValidationError:
        raise ModelError(f"{repo_id!r} is no hub name; write owner/name") from None
    except errors.OfflineModeIsEnabled:
        raise ModelError(
            f"{repo_id!r} is not in the local cache and HF_HUB_OFFLINE is set; unset it, or give "
            "a local folder"
        ) from None
    except (unreachable, OSError) as error:
        raise ModelError(
            f"cannot reach the hub for {repo_id!r} ({first_line(error)}); check the network, or "
            "give a local folder"
        ) from None
    tensors = (
        known_dtype(name, str(info.dtype), tuple(info.shape), repo_id)
        for file in files.values()
        for name, info in file.tensors.items()
    )
    return config, tuple(sorted(tensors, key=lambda tensor: tensor.name))
