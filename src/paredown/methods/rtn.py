"""Round to nearest: no data, seconds, and the baseline every other method has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from paredown.methods.base import Context
from paredown.methods.shared.groups import GridParams, GroupMethod, round_each
from paredown.spec.scheme import Scheme

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.ops.grids import AnyGrid


class RtnParams(GridParams):
    """Parameters of `rtn`."""

    search_steps: Annotated[int, Field(ge=0, le=100)] = 20
    """Smaller ranges tried per group for the least squared error; 0 keeps the full range."""


@final
class Rtn(GroupMethod[RtnParams]):
    """Round every weight to the nearest point of its group's grid."""

    name = "rtn"
    summary = "round to nearest, 2-8 bits; no data needed"
    params_type = RtnParams

    def apply(self, source: Checkpoint, out: Path, params: RtnParams, context: Context) -> Tensor:
        from paredown.blocks.rewrite import stored_dtype
        from paredown.ops.grids import nearest

        def round_one(name: str, weight: Tensor, scheme: Scheme) -> tuple[Tensor, AnyGrid]:
            return nearest(
                weight, scheme, scale_dtype=stored_dtype(source), steps=params.search_steps
            )

        return round_each(source, out, params, context, round_one=round_one)
