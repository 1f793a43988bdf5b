"""Round to nearest: no data, seconds, and the baseline every other method has to beat."""

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
from paredown.spec.model import ModelSpec
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paredown.models.checkpoint import Checkpoint
    from paredown.ops.affine import Grid
    from paredown.spec.structure import Block


class RtnParams(GroupParams):
    """Parameters of `rtn`."""

    search_steps: Annotated[int, Field(ge=0, le=100)] = 20
    """Smaller ranges tried per group for the least squared error; 0 keeps the full range."""


@final
class Rtn(Method[RtnParams]):
    """Round every weight to the nearest point of its group's grid."""

    name = "rtn"
    kind = Kind.QUANTIZATION
    summary = "round to nearest, 2-8 bits; no data needed"
    params_type = RtnParams
    runtimes = ("paredown", "transformers", "vllm")

    def runtimes_of(self, params: RtnParams) -> tuple[str, ...]:
        return runtimes_of_groups(params)

    def check(self, spec: ModelSpec, params: RtnParams, target: Target) -> None:
        check_groups(spec, params)

    def predict(self, spec: ModelSpec, params: RtnParams) -> ModelSpec:
        return predict_groups(spec, params)

    def apply(self, source: Checkpoint, out: Path, params: RtnParams, context: Context) -> Tensor:
        from paredown.models.rewrite import probe_walk, quantize_blocks, stored_dtype
        from paredown.ops.gptq import round_to_nearest

        schemes = schemes_of(source.spec, params)

        def quantize(
            block: Block, module: nn.Module, weights: dict[str, Tensor]
        ) -> dict[str, tuple[Tensor, Grid]]:
            return {
                name: round_to_nearest(
                    weight,
                    bits=schemes[name].bits,
                    group_size=schemes[name].group_width(weight.shape[1]),
                    symmetric=params.symmetric,
                    scale_dtype=stored_dtype(source),
                    steps=params.search_steps,
                )
                for name, weight in weights.items()
            }

        return quantize_blocks(
            source,
            out,
            walk=probe_walk(
                source, device=context.device, trust_remote_code=context.trust_remote_code
            ),
            schemes=schemes,
            quantize=quantize,
            progress=context.progress,
        )
