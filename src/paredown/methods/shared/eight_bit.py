"""What W8A8 methods have in common: checks and exact sizes."""

from __future__ import annotations

from paredown.errors import ConfigError
from paredown.spec.model import ModelSpec, TensorInfo, tensor_info
from paredown.spec.packed import byte_option
from paredown.spec.structure import select_linears, uses_conv1d

_FLAT_INPUTS = {"opt"}
"""Families that hand all tokens of a batch to a layer as one matrix."""


def check_eight_bit(
    name: str, spec: ModelSpec, skip: tuple[str, ...], *, activations: bool = True
) -> None:
    """Refuse models whose layers cannot be stored, or not run alike everywhere, in eight bits.

    Raises:
        ConfigError: no linears to quantize, Conv1D layers, experts, or a family of `_FLAT_INPUTS`.
    """
    if uses_conv1d(spec):
        raise ConfigError(
            f"{spec.architecture} stores its weights in Conv1D layers, which compressed-tensors "
            "cannot hold; use int8"
        )
    if spec.experts:
        raise ConfigError(f"{spec.architecture} is a mixture of experts; {name} leaves those alone")
    if activations and spec.family in _FLAT_INPUTS:
        raise ConfigError(
            f"{name}: {spec.architecture} hands its MLP all tokens as one matrix, for which "
            "compressed-tensors takes one activation scale instead of one per token; use "
            "rtn(bits=8)"
        )
    if not select_linears(spec, skip):
        raise ConfigError("there is no layer to quantize: `skip` leaves out all of them")


def predict_eight_bit(
    spec: ModelSpec, skip: tuple[str, ...], dtype: str, *, activations: bool = True
) -> ModelSpec:
    """The exact tensors: per layer the codes, and a scale per row in the dtype of the weights."""
    chosen = set(select_linears(spec, skip))
    tensors: list[TensorInfo] = []
    for tensor in spec.tensors:
        name, _, leaf = tensor.name.rpartition(".")
        if leaf != "weight" or name not in chosen:
            tensors.append(tensor)
            continue
        scale = tensor_info(f"{name}.weight_scale", spec.dtype, (tensor.shape[0], 1))
        tensors += [tensor_info(tensor.name, dtype, tensor.shape), scale]
    option = byte_option(dtype, spec.dtype, activations=activations)
    if option is None:
        raise AssertionError(f"{dtype} is no dtype of codes")
    return spec.with_tensors(
        tensors, quantization="compressed-tensors", options=dict.fromkeys(chosen, option)
    )
