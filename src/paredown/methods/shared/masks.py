"""What the methods that set single weights to zero have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationInfo, field_validator

from paredown.errors import ConfigError
from paredown.methods.base import Context, Kind, Method, Params
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec, TensorInfo, tensor_info
from paredown.spec.packed import sparse_option
from paredown.spec.structure import fused_experts, matrix_shape, select_linears
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.hessians import HessianBank
    from paredown.blocks.masks import Masked
    from paredown.spec.structure import Block

    Mask = Callable[[Block, nn.Module, dict[str, Tensor]], Masked]

_GROUPS = {"2:4": (2, 4), "4:8": (4, 8)}


class MaskParams(Params):
    """Parameters of masks on single weights."""

    ratio: Annotated[float, Field(gt=0, lt=1), Choice(0.5, 0.3, 0.6)] = 0.5
    """Share of each layer's weights that is set to zero."""
    pattern: Annotated[Literal["none", "2:4", "4:8"], Choice("none", "2:4")] = "none"
    """N:M zeroes N of every M neighbouring input features, which needs ratio = 0.5; 2:4 is what
    sparse tensor cores compute with."""
    storage: Annotated[Literal["dense", "sparse"], Choice("dense", "sparse")] = "dense"
    """`dense` stores zeros like any weight: any runtime loads it, the size stays. `sparse` stores
    one bit per weight and the values left: smaller files, for `paredown.load` only, dense in
    memory; no step can follow."""
    skip: tuple[str, ...] = ()
    """Layers left as they are: names or wildcards, as in `["*.down_proj"]`."""

    @field_validator("pattern")
    @classmethod
    def _half(cls, value: str, info: ValidationInfo) -> str:
        if value != "none" and info.data.get("ratio", 0.5) != 0.5:
            raise ValueError("leaves half of the weights: use ratio = 0.5")
        return value

    @property
    def group(self) -> tuple[int, int] | None:
        """(n, m) of an N:M pattern."""
        return _GROUPS.get(self.pattern)

    def removed_of(self, n: int) -> int:
        """How many of `n` weights that are compared with each other are set to zero."""
        return round(n * self.ratio)


class ScopedMaskParams(MaskParams):
    """Parameters of masks whose scores may be compared within a layer or over all layers."""

    scope: Literal["layer", "global"] = "layer"
    """`layer` zeroes the same share of each layer; `global` compares all layers' scores, which can
    empty a layer whose weights are small."""

    @field_validator("scope")
    @classmethod
    def _no_pattern(cls, value: str, info: ValidationInfo) -> str:
        if value == "global" and info.data.get("pattern", "none") != "none":
            raise ValueError("an N:M pattern zeroes half of each layer: use scope = 'layer'")
        return value


M = TypeVar("M", bound=MaskParams)


class MaskMethod(Method[M]):
    """A method that sets weights to zero; a subclass says which, in `apply`.

    Class attributes:
        by_row: the same number is removed of each row, not only of each layer.
    """

    kind = Kind.PRUNING
    by_row: ClassVar[bool] = False

    def check(self, spec: ModelSpec, params: M, target: Target) -> None:
        _check(spec, params)

    def predict(self, spec: ModelSpec, params: M) -> ModelSpec:
        """The tensors of the masked checkpoint.

        Exact, but for `scope="global"` with sparse storage: there the bytes of all layers
        together are exact, and their parts are those of equal shares.
        """
        return spec if params.storage == "dense" else _predict_sparse(spec, params, self.by_row)


def _check(spec: ModelSpec, params: MaskParams) -> None:
    """Refuse models whose weights cannot be masked.

    Raises:
        ConfigError: fused experts, no layer left, a width that N:M groups do not divide.
    """
    if fused := fused_experts(spec):
        raise ConfigError(
            f"{spec.architecture}: {fused[0]} holds all experts of a block in one tensor, which is "
            "not pruned yet; only experts stored one by one are"
        )
    layers = select_linears(spec, params.skip)
    if not layers:
        raise ConfigError("there is no layer to prune: `skip` leaves out all of them")
    for name in layers if params.group else ():
        _, width = matrix_shape(spec, name)
        if params.group and width % params.group[1]:
            raise ConfigError(
                f"layer {name!r}: {width} input features do not divide into groups of "
                f"{params.group[1]}; use pattern = 'none', or add the layer to `skip`"
            )


def _predict_sparse(spec: ModelSpec, params: MaskParams, by_row: bool) -> ModelSpec:
    layers = set(select_linears(spec, params.skip))
    is_global = isinstance(params, ScopedMaskParams) and params.scope == "global"
    tensors: list[TensorInfo] = []
    seen = removed = 0
    for tensor in spec.tensors:
        name, _, leaf = tensor.name.rpartition(".")
        if leaf != "weight" or name not in layers:
            tensors.append(tensor)
            continue
        rows, width = matrix_shape(spec, name)
        if params.group:
            gone = tensor.numel * params.group[0] // params.group[1]
        elif by_row:
            gone = rows * params.removed_of(width)
        elif is_global:
            # Differences of a running total, so that all layers together lose just the right
            # number.
            gone = params.removed_of(seen + tensor.numel) - removed
        else:
            gone = params.removed_of(tensor.numel)
        seen, removed = seen + tensor.numel, removed + gone
        kept, row_bytes = tensor.numel - gone, -(-width // 8)
        tensors += [
            tensor_info(tensor.name, tensor.dtype, (kept,)),
            tensor_info(f"{tensor.name}_bitmask", "U8", (rows, row_bytes)),
            tensor_info(f"{tensor.name}_shape", "I64", (2,)),
        ]
    options = {name: sparse_option(spec.by_name[f"{name}.weight"].dtype) for name in layers}
    return spec.with_tensors(tensors, quantization="paredown", options=spec.options | options)


def remove(scores: Tensor, params: MaskParams, *, by_row: bool = False) -> Tensor:
    """The mask (out, inp) of one layer: N:M groups, or a share of each row or of the layer."""
    from paredown.ops.masks import smallest, smallest_of_groups, smallest_of_layer

    if params.group:
        return smallest_of_groups(scores, params.group[1], params.group[0])
    if by_row:
        return smallest(scores, params.removed_of(scores.shape[1]))
    return smallest_of_layer(scores, params.removed_of(scores.numel()))


def remover(
    source: Checkpoint,
    params: ScopedMaskParams,
    scores: Callable[[str], Tensor],
) -> Callable[[Tensor], Tensor]:
    """Scores (out, inp) to mask, to be called with the scores of each chosen layer, in order.

    Args:
        scores: by layer name, float32 >= 0; read twice if the scope is global.
    """
    from paredown.ops.masks import cut, cutoff

    if params.scope == "layer":
        return partial(remove, params=params)
    layers = select_linears(source.spec, params.skip)
    total = sum(source.spec.by_name[f"{name}.weight"].numel for name in layers)
    value, ties = cutoff(lambda: map(scores, layers), params.removed_of(total))

    def cut_layer(found: Tensor) -> Tensor:
        nonlocal ties
        # What is left of the ties goes to the layers that come after, so the total is exact.
        mask, ties = cut(found, value, ties)
        return mask

    return cut_layer


def write_masked(
    source: Checkpoint,
    out: Path,
    params: MaskParams,
    context: Context,
    mask: Mask,
    hessians: HessianBank | None = None,
) -> Tensor:
    """Write the masked model, see `blocks.masks.mask_blocks`.

    Args:
        hessians: what the masks are made from, if so: its walk is used, and the artifact names the
            experts that too few calibration tokens reached; else only the probe walks through.
    """
    from paredown.blocks.experts import rare_experts
    from paredown.blocks.masks import mask_blocks
    from paredown.blocks.rewrite import probe_walk

    layers = select_linears(source.spec, params.skip)
    walk = (
        probe_walk(source, device=context.device, trust_remote_code=context.trust_remote_code)
        if hessians is None
        else hessians.walk
    )
    return mask_blocks(
        source,
        out,
        walk=walk,
        layers=layers,
        mask=mask,
        sparse=params.storage == "sparse",
        progress=context.progress,
        statement=None if hessians is None else lambda: rare_experts(hessians.rare(), layers),
    )
