"""Any model folder as a model that gradients can pass through, and its forward pass in training."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from paredown.artifact.checkpoint import TORCH_DTYPES, Checkpoint
from paredown.artifact.compressed_tensors import OWN, STANDARD, read_packed, read_schemes
from paredown.blocks.names import module_name
from paredown.blocks.skeleton import empty_model, fill, read_config, require_filled, set_tensor
from paredown.ops.grids import dequantize
from paredown.runtimes.torch.kernels import keep_differentiable
from paredown.runtimes.torch.load import load
from paredown.runtimes.torch.packed import dense_dtype
from paredown.spec.packed import float_dtype


def load_trainable(
    source: Checkpoint, *, device: str, dtype: torch.dtype, trust_remote_code: bool = False
) -> Any:
    """The model of a folder in evaluation mode, through which gradients pass.

    Packed weights are unpacked, because packed kernels have no gradient; those of bitsandbytes,
    whose kernels have one, stay packed.
    """
    if source.spec.quantization in {STANDARD, OWN}:
        return _load_unpacked(source, device, dtype, trust_remote_code)
    model = load(source.folder, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    if source.spec.quantization == "bitsandbytes":  # for which transformers ignores `dtype`
        cast_unpacked(model, dtype)
        keep_differentiable(model)
    return model


@torch.no_grad()
def cast_unpacked(model: Any, dtype: torch.dtype) -> None:
    """Bring what bitsandbytes does not pack, adapters aside, to `dtype`, and its products too."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and ".lora_" not in name:
            parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if hasattr(module, "compute_type_is_set"):
            module.compute_type_is_set = False  # decided again by the next input


@torch.no_grad()
def _load_unpacked(
    source: Checkpoint, device: str, dtype: torch.dtype, trust_remote_code: bool
) -> Any:
    config = read_config(source.folder, trust_remote_code=trust_remote_code)
    model: Any = empty_model(config, dtype, trust_remote_code=trust_remote_code)
    schemes = read_schemes(source)
    for name, scheme in schemes.items():
        codes, grid = read_packed(source, name, scheme)
        set_tensor(model, f"{name}.weight", dequantize(codes, grid, dtype))
    # Packed codes, scales and shapes were unpacked above; a bias is still to be filled in.
    inside = tuple(f"{name}.weight_" for name in schemes)
    fill(model, source, (n for n in source.names if not n.startswith(inside)), dtype=dtype)
    model.tie_weights()
    require_filled(model, source.folder)
    return model.to(device)


def training_dtype(source: Checkpoint, device: str) -> torch.dtype:
    """The dtype of weights that are not trained.

    bfloat16 where they are stored in it and the device computes in it; float32 elsewhere, because
    unpacked and float16 weights would be rounded once more.
    """
    is_packed = source.spec.quantization in {STANDARD, OWN}
    if not is_packed and TORCH_DTYPES[float_dtype(source.spec)] == torch.bfloat16:
        return dense_dtype(device)
    return torch.float32


def save_activations(model: Any, source: Checkpoint) -> None:
    """Let every block compute its activations again on the way back instead of keeping them."""
    for block in source.spec.structure.blocks:
        module = model.get_submodule(module_name(model, block.prefix))
        module.forward = partial(recompute, module.forward, use_reentrant=False)


def forward(model: Any, windows: Tensor, *, states: bool = False) -> tuple[Tensor, list[Tensor]]:
    """Next-token logits of some windows, and if asked for the output of every block.

    Args:
        windows: (n, length) int64 token ids.
        states: whether the blocks' outputs are wanted.

    Returns:
        Logits (n * (length - 1), vocabulary) of every position but the last; the outputs, each
        (n, length, width).
    """
    dtype = dense_dtype(model.device.type)
    mixed = dtype == torch.bfloat16
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=mixed):
        output = model(windows.to(model.device), use_cache=False, output_hidden_states=states)
    logits: Tensor = output.logits[:, :-1]
    return logits.reshape(-1, logits.shape[-1]), list(output.hidden_states[1:]) if states else []


def following(windows: Tensor) -> Tensor:
    """The tokens that `forward`'s logits should have predicted, (n * (length - 1),)."""
    return windows[:, 1:].reshape(-1)
