"""Models as empty modules, filled part by part from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.widths import narrow
from paredown.blocks.experts import separate_experts
from paredown.blocks.names import find_part, know_names, module_name
from paredown.errors import ModelError
from paredown.spec.redact import first_line
from paredown.spec.structure import stored_transposed
from paredown.spec.widths import FIELD


def read_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The transformers config of a folder.

    Raises:
        ModelError: transformers cannot read it, or it needs remote code that was not allowed.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (ValueError, LookupError, OSError, TypeError, AttributeError, RecursionError) as error:
        # Fields of another type than transformers expects end in any of these.
        raise ModelError(
            f"{folder}: transformers cannot read the config: {first_line(error)}"
        ) from None


def auto_class(config: Any) -> Any:
    """The transformers class that builds the model of a config: text alone, or images and text."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    seeing = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    if seeing is None:
        return AutoModelForCausalLM
    # Some have a class for their language model alone as well: then the folder tells which it is.
    blind: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    named = getattr(config, "architectures", None) or []
    is_blind = blind is not None and blind is not seeing and blind.__name__ in named
    return AutoModelForCausalLM if is_blind else AutoModelForImageTextToText


def empty_model(config: Any, dtype: torch.dtype, *, trust_remote_code: bool = False) -> Any:
    """The model of a config with parameters on the meta device and real buffers.

    Every matrix of a block is an `nn.Linear`: GPT-2's Conv1D layers, and experts that transformers
    keeps in one tensor, are replaced by linears that compute the same.
    """
    from accelerate import init_empty_weights

    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # Buffers such as rotary frequencies are computed, not stored: left empty, nobody would fill
    # them.
    with init_empty_weights(include_buffers=False):
        model = auto_class(config).from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code
        )
    know_names(model)
    separate_experts(model)
    _replace_conv1d(model)
    if widths := getattr(config, FIELD, None):
        narrow(model, widths)
    model.eval()
    return model


def _replace_conv1d(model: nn.Module) -> None:
    from transformers.pytorch_utils import Conv1D

    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            width, rows = module.weight.shape  # Conv1D keeps (inp, out)
            dtype = module.weight.dtype
            model.set_submodule(name, nn.Linear(width, rows, dtype=dtype, device="meta"))


def read_matrix(checkpoint: Checkpoint, name: str) -> Tensor:
    """The weight (out, inp) of a linear, by its module name, however it is stored."""
    stored = checkpoint.read(f"{name}.weight")
    return as_stored(checkpoint, name, stored)


def as_stored(checkpoint: Checkpoint, name: str, weight: Tensor) -> Tensor:
    """A weight (out, inp) of a linear, turned as the checkpoint stores it; its own reverse."""
    return weight.T.contiguous() if stored_transposed(checkpoint.spec, name) else weight


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
        # Replaced, not copied into: what was there is on the meta device and has no memory.
        owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)


def fill(
    model: nn.Module,
    checkpoint: Checkpoint,
    names: Iterable[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> list[str]:
    """Read tensors of the checkpoint into the model; float ones in `dtype` if given.

    Returns:
        Names of the tensors that are no part of the model, and were left out.
    """
    left = []
    for name in names:
        if find_part(model, name) is None:
            # Masks and frequencies that older files hold, heads of another use, blocks that
            # foretell further tokens: transformers leaves them out as well. What is missing for
            # it, `require_filled` tells.
            left.append(name)
            continue
        value = checkpoint.read(name)
        if stored_transposed(checkpoint.spec, name.removesuffix(".weight")):
            value = value.T.contiguous()
        if dtype is not None and value.is_floating_point():
            value = value.to(dtype)
        set_tensor(model, name, value.to(device))
    return left


def empty(module: nn.Module) -> None:
    """Drop a module's weights. Its buffers stay: those that are computed come from no file."""
    for owner in module.modules():
        for name, weight in owner.named_parameters(recurse=False):
            hollow = torch.empty_like(weight, device="meta")
            owner._parameters[name] = nn.Parameter(hollow, requires_grad=False)


def require_filled(
    model: nn.Module, folder: Path, *, aside: Callable[[str], bool] = lambda name: False
) -> None:
    """Raise ModelError naming the parameters that the checkpoint did not give.

    Args:
        aside: tells of a parameter's name whether it may be empty.
    """
    missing = [n for n, p in model.named_parameters() if p.is_meta and not aside(n)]
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} weights are missing, the first is {missing[0]!r}"
        )
