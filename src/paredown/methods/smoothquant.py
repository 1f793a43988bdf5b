"""SmoothQuant: weights and activations in eight bits, outliers moved from the one to the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from paredown.methods.base import Context, Kind, Method, Params
from paredown.methods.shared.eight_bit import check_eight_bit, predict_eight_bit
from paredown.methods.shared.smoothing import check_folds
from paredown.spec.domain import Choice
from paredown.spec.folds import find_folds
from paredown.spec.model import ModelSpec
from paredown.spec.structure import select_linears
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.smoothing import Folding
    from paredown.spec.structure import Block


class SmoothquantParams(Params):
    """Parameters of `smoothquant`."""

    strength: Annotated[float, Field(ge=0, le=1), Choice(0.5, 0.8)] = 0.5
    """alpha: how much of the activations' unevenness the weights take over."""
    skip: tuple[str, ...] = ()
    """Layers left as they are: names or wildcards, as in `["*.down_proj"]`."""


@final
class Smoothquant(Method[SmoothquantParams]):
    """W8A8 after smoothing, arXiv:2211.10438.

    Weights are int8 with one scale per row, activations int8 with one scale per token, taken while
    computing; products are products of integers.
    """

    name = "smoothquant"
    kind = Kind.QUANTIZATION
    summary = "int8 weights and activations (W8A8), smoothed on calibration text"
    params_type = SmoothquantParams
    needs_data = True

    def check(self, spec: ModelSpec, params: SmoothquantParams, target: Target) -> None:
        check_eight_bit(self.name, spec, params.skip)
        check_folds(self.name, spec, select_linears(spec, params.skip), "rtn(bits=8)")

    def predict(self, spec: ModelSpec, params: SmoothquantParams) -> ModelSpec:
        return predict_eight_bit(spec, params.skip, "I8")

    def apply(
        self, source: Checkpoint, out: Path, params: SmoothquantParams, context: Context
    ) -> Tensor:
        import torch

        from paredown.artifact.eight_bit import EightBit
        from paredown.blocks.eight_bit import write_eight_bit
        from paredown.blocks.ranges import input_ranges
        from paredown.blocks.rewrite import probe_walk
        from paredown.blocks.smoothing import smooth_block
        from paredown.ops.eight_bit import INT8
        from paredown.ops.smoothing import smoothing_factors

        chosen = set(select_linears(source.spec, params.skip))
        ranges = input_ranges(
            source,
            source_hash=context.source_hash,
            tokens=context.calibration(),
            cache=context.cache,
            device=context.device,
            trust_remote_code=context.trust_remote_code,
            progress=lambda share, message: context.progress(share / 2, message),
        )

        def choose(folding: Folding, readers: list[Tensor]) -> Tensor:
            largest = torch.stack([weight.abs().amax(0) for weight in readers]).amax(0)
            factors = smoothing_factors(
                folding.tie(ranges[folding.fold.readers[0]], "amax"),
                folding.tie(largest, "amax"),
                params.strength,
            )
            return folding.realize(factors)

        def prepare(
            block: Block, module: nn.Module, weights: dict[str, Tensor]
        ) -> dict[str, Tensor]:
            folds = find_folds(source.spec, block, chosen)
            return smooth_block(source, block, module, folds, weights, choose)

        return write_eight_bit(
            source,
            out,
            walk=probe_walk(
                source, device=context.device, trust_remote_code=context.trust_remote_code
            ),
            chosen=chosen,
            how=EightBit(INT8, activations=True),
            prepare=prepare,
            progress=lambda share, message: context.progress(0.5 + share / 2, message),
        )
