"""Models as empty modules, filled part by part from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paredown.errors import ModelError
from paredown.models.checkpoint import Checkpoint


def read_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The transformers config of a folder.

    Raises:
        ModelError: transformers cannot read it, or it needs remote code that was not allowed.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (ValueError, KeyError, OSError) as error:
        first = str(error).splitlines()[0]
        raise ModelError(f"{folder}: transformers cannot read the config: {first}") from None


def empty_model(config: Any, dtype: torch.dtype, *, trust_remote_code: bool = False) -> Any:
    """The model of a config with parameters on the meta device and real buffers."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code
        )
    model.eval()
    return model


def module_name(model: nn.Module, name: str) -> str:
    """The model's own name for a stored tensor or module: some files leave out the base prefix.

    Raises:
        ModelError: the model has no such part.
    """
    prefix = str(getattr(model, "base_model_prefix", ""))
    for candidate in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")):
        owner, _, leaf = candidate.rpartition(".")
        try:
            if hasattr(model.get_submodule(owner), leaf):
                return candidate
        except AttributeError:
            continue
    raise ModelError(f"the {type(model).__name__} that transformers builds has no part {name!r}")


def set_tensor(model: nn.Module, name: str, value: Tensor) -> None:
    """Put one stored tensor in its place, as parameter or as buffer.

    Raises:
        ModelError: there is no such place, or it has another shape.
    """
    owner_name, _, leaf = module_name(model, name).rpartition(".")
    owner = model.get_submodule(owner_name)
    old = getattr(owner, leaf)
    if old.shape != value.shape:
        raise ModelError(
            f"{name} has shape {tuple(value.shape)}, the config asks for {tuple(old.shape)}"
        )
    if leaf in owner._buffers:
        owner._buffers[leaf] = value
    else:
        owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)


def fill(
    model: nn.Module,
    checkpoint: Checkpoint,
    names: Iterable[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Read tensors of the checkpoint into the model; float ones in `dtype` if given."""
    for name in names:
        value = checkpoint.read(name)
        if dtype is not None and value.is_floating_point():
            value = value.to(dtype)
        set_tensor(model, name, value.to(device))


def require_filled(model: nn.Module, folder: Path) -> None:
    """Raise ModelError naming the parameters that the checkpoint did not give."""
    missing = [n for n, p in model.named_parameters() if p.is_meta]
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} weights are missing, the first is {missing[0]!r}"
        )
