"""Models as empty modules, filled part by part from a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.widths import narrow
from paredown.blocks.experts import separate_experts
from paredown.errors import ModelError
from paredown.spec.infer import is_buffer
from paredown.spec.redact import first_line
from paredown.spec.structure import stored_transposed
from paredown.spec.widths import FIELD

_RENAMED = (
    (re.compile(r"\bblock_sparse_moe\."), "mlp."),
    (re.compile(r"(experts\.\d+\.)w1\b"), r"\1gate_proj"),
    (re.compile(r"(experts\.\d+\.)w3\b"), r"\1up_proj"),
    (re.compile(r"(experts\.\d+\.)w2\b"), r"\1down_proj"),
    (re.compile(r"^language_model\.lm_head\b"), "lm_head"),
    (re.compile(r"^language_model\.model\b"), "model.language_model"),
    (re.compile(r"^(vision_tower|multi_modal_projector|image_newline)\b"), r"model.\1"),
    (re.compile(r"\bvision_tower\.vision_model\."), "vision_tower."),
)
"""Names in files that differ from those in memory: Mixtral, LLaVA."""


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

    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if sees and not known else AutoModelForCausalLM


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


def module_name(model: nn.Module, name: str) -> str:
    """The model's own name for a stored tensor or module.

    Some files leave out the base prefix, and some families name parts otherwise in files.

    Raises:
        ModelError: the model has no such part.
    """
    found = _find_part(model, name)
    if found is None:
        kind = type(model).__name__
        raise ModelError(f"the {kind} that transformers builds has no part {name!r}")
    return found


def _find_part(model: nn.Module, name: str) -> str | None:
    for candidate in _candidates(name, str(getattr(model, "base_model_prefix", ""))):
        owner, _, leaf = candidate.rpartition(".")
        try:
            if hasattr(model.get_submodule(owner), leaf):
                return candidate
        except AttributeError:
            continue
    return None


def _candidates(name: str, prefix: str) -> Iterator[str]:
    names = [name]
    for pattern, replacement in _RENAMED:
        # Each rule works on what the ones before it left: Mixtral's names need two of them.
        names.append(pattern.sub(replacement, names[-1]))
    for one in dict.fromkeys(names):
        yield from (one, f"{prefix}.{one}", one.removeprefix(f"{prefix}."))


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
) -> None:
    """Read tensors of the checkpoint into the model; float ones in `dtype` if given."""
    for name in names:
        if is_buffer(checkpoint.spec.by_name[name]) and _find_part(model, name) is None:
            continue  # masks and frequencies that older files hold and newer models compute
        value = checkpoint.read(name)
        if stored_transposed(checkpoint.spec, name.removesuffix(".weight")):
            value = value.T.contiguous()
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
