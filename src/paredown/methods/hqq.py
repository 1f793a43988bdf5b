"""HQQ: grids fitted by half-quadratic splitting; no data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from paredown.methods.base import Context
from paredown.methods.shared.groups import GroupMethod, GroupParams, round_each
from paredown.spec.domain import Choice
from paredown.spec.scheme import Scheme

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.ops.affine import Grid


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
class Hqq(GroupMethod[HqqParams]):
    """Half-quadratic quantization (Badri & Shaji 2023), on grids that can be stored everywhere.

    The original's zero-points are real-valued, which no runtime but its own reads.
    """

    name = "hqq"
    summary = "half-quadratic fit of the grids, 2-8 bits; no data needed"
    params_type = HqqParams

    def apply(self, source: Checkpoint, out: Path, params: HqqParams, context: Context) -> Tensor:
        from paredown.blocks.rewrite import stored_dtype
        from paredown.ops.affine import quantize
        from paredown.ops.hqq import fit_half_quadratic

        def fit(name: str, weight: Tensor, scheme: Scheme) -> tuple[Tensor, Grid]:
            grid = fit_half_quadratic(
                weight,
                bits=scheme.bits,
                group_size=scheme.group_width(weight.shape[1]),
                symmetric=scheme.symmetric,
                scale_dtype=stored_dtype(source),
                norm=params.norm,
                iterations=params.iterations,
                steps=params.search_steps,
            )
            return quantize(weight, grid), grid

        return round_each(source, out, params, context, round_one=fit)
