"""HQQ: grids fitted by half-quadratic splitting; no data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from paredown.methods._quantization import (
    GroupParams,
    check_groups,
    predict_groups,
    runtimes_of_groups,
    schemes_of,
)
from paredown.methods.base import Context, Kind, Method
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paredown.models.checkpoint import Checkpoint
    from paredown.ops.affine import Grid
    from paredown.spec.structure import Block


class HqqParams(GroupParams):
    """Parameters of `hqq`."""

    symmetric: Annotated[bool, Choice(False, True)] = False
    """Zero-point fixed at 0. Asymmetric grids store a zero-point per group as well."""
    norm: Annotated[float, Field(gt=0, le=1)] = 0.7
    """p of the error sum |w - w_r|^p that is split; below 1, outliers weigh less."""
    iterations: Annotated[int, Field(ge=1, le=200)] = 20
    """At most so many alternations; it ends earlier when nothing gets better."""
    search_steps: Annotated[int, Field(ge=0, le=100)] = 20
    """Smaller ranges tried for the grid that it starts from; 0 starts from the full range."""


@final
class Hqq(Method[HqqParams]):
    """Half-quadratic quantization (Badri & Shaji 2023), on grids that can be stored everywhere.

    The original's zero-points are real-valued, which no runtime but its own reads.
    """

    name = "hqq"
    kind = Kind.QUANTIZATION
    summary = "half-quadratic fit of the grids, 2-8 bits; no data needed"
    params_type = HqqParams
    runtimes = ("paredown", "transformers", "vllm")

    def runtimes_of(self, params: HqqParams) -> tuple[str, ...]:
        return runtimes_of_groups(params)

    def check(self, spec: ModelSpec, params: HqqParams, target: Target) -> None:
        check_groups(spec, params)

    def predict(self, spec: ModelSpec, params: HqqParams) -> ModelSpec:
        return predict_groups(spec, params)

    def apply(self, source: Checkpoint, out: Path, params: HqqParams, context: Context) -> Tensor:
        from paredown.models.rewrite import probe_walk, quantize_blocks, stored_dtype
        from paredown.ops.affine import quantize
        from paredown.ops.hqq import fit_half_quadratic

        schemes = schemes_of(source.spec, params)

        def fit(name: str, weight: Tensor) -> tuple[Tensor, Grid]:
            grid = fit_half_quadratic(
                weight,
                bits=schemes[name].bits,
                group_size=schemes[name].group_width(weight.shape[1]),
                symmetric=params.symmetric,
                scale_dtype=stored_dtype(source),
                norm=params.norm,
                iterations=params.iterations,
                steps=params.search_steps,
            )
            return quantize(weight, grid), grid

        def quantize_block(
            block: Block, module: nn.Module, weights: dict[str, Tensor]
        ) -> dict[str, tuple[Tensor, Grid]]:
            return {name: fit(name, weight) for name, weight in weights.items()}

        return quantize_blocks(
            source,
            out,
            walk=probe_walk(
                source, device=context.device, trust_remote_code=context.trust_remote_code
            ),
            schemes=schemes,
            quantize=quantize_block,
            progress=context.progress,
        )
