"""What round-to-nearest and GPTQ have in common: their parameters, checks and exact sizes."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from paredown.errors import ConfigError, GroupSizeError
from paredown.methods.base import Params
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.structure import select_linears, uses_conv1d


class GroupParams(Params):
    """Parameters of an integer grid."""

    bits: Annotated[int, Field(ge=2, le=8), Choice(4, 8, 3)] = 4
    """Width of one code, in bits."""
    group_size: Annotated[int, Field(ge=-1), Choice(64, 32, -1)] = 64
    """Input features sharing one scale; must divide every layer's width. -1: one group a row."""
    symmetric: Annotated[bool, Choice(True, False)] = True
    """Zero-point fixed at 0. Asymmetric grids store a zero-point per group as well."""
    skip: tuple[str, ...] = ()
    """Layers left as they are: names or wildcards, as in `["*.down_proj"]`."""


def check_groups(spec: ModelSpec, params: GroupParams) -> None:
    """Refuse models and group sizes that cannot be stored as packed groups.

    Raises:
        ConfigError: no linears to quantize, Conv1D layers, experts, or a bad group size.
    """
    if uses_conv1d(spec):
        raise ConfigError(
            f"{spec.architecture} stores its weights in Conv1D layers, which compressed-tensors "
            "cannot hold; use int8"
        )
    if spec.experts:
        raise ConfigError(
            f"{spec.architecture} is a mixture of experts; rtn and gptq do not pack experts yet"
        )
    if params.group_size == 0 or -1 < params.group_size < 16:
        raise ConfigError(f"group_size = {params.group_size}: use 16 or more, or -1 for whole rows")
    linears = select_linears(spec, params.skip)
    if not linears:
        raise ConfigError("there is no layer to quantize: `skip` leaves out all of them")
    for name in linears if params.group_size > 0 else ():
        width = spec.by_name[f"{name}.weight"].shape[1]
        if width % params.group_size:
            raise GroupSizeError(name, width, params.group_size)


def predict_groups(spec: ModelSpec, params: GroupParams) -> ModelSpec:
    """The exact tensors of the packed checkpoint."""
    chosen = set(select_linears(spec, params.skip))
    tensors: list[TensorInfo] = []
    for tensor in spec.tensors:
        name, _, leaf = tensor.name.rpartition(".")
        if leaf != "weight" or name not in chosen:
            tensors.append(tensor)
            continue
        rows, width = tensor.shape
        groups = 1 if params.group_size < 0 else width // params.group_size
        words = math.ceil(width * params.bits / 32)
        tensors += [
            TensorInfo(name=f"{name}.weight_packed", dtype="I32", shape=(rows, words)),
            TensorInfo(name=f"{name}.weight_scale", dtype=spec.dtype, shape=(rows, groups)),
            TensorInfo(name=f"{name}.weight_shape", dtype="I64", shape=(2,)),
        ]
        if not params.symmetric:
            words = math.ceil(rows * params.bits / 32)
            zero = TensorInfo(name=f"{name}.weight_zero_point", dtype="I32", shape=(words, groups))
            tensors.append(zero)
    return spec.with_tensors(tensors, quantization="compressed-tensors")
