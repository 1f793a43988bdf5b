"""Wanda: a weight counts as much as it moves the layer's output on calibration text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

from paredown.methods.base import Context
from paredown.methods.shared.masks import MaskMethod, MaskParams, remove, write_masked
from paredown.methods.shared.samples import SampledParams, hessian_bank, kept_moments

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.masks import Masked
    from paredown.spec.model import ModelSpec
    from paredown.spec.structure import Block
    from paredown.store.cache import Cache


class WandaParams(MaskParams, SampledParams):
    """Parameters of `wanda`. The same share goes from each row, so there is no `scope`."""


@final
class Wanda(MaskMethod[WandaParams]):
    """Set the weights of smallest |w_ij| ||x_j||_2 in each row to zero, arXiv:2306.11695, eq. 1.

    x is what the layer reads in the uncompressed model, so that the norms are measured once.
    """

    name = "wanda"
    summary = "zero the weights of least size times input norm, in each row"
    params_type = WandaParams
    needs_data = True
    by_row = True

    def disk(self, spec: ModelSpec, params: WandaParams, cache: Cache) -> tuple[int, int]:
        return 0, kept_moments(spec, cache)

    def apply(self, source: Checkpoint, out: Path, params: WandaParams, context: Context) -> Tensor:
        hessians = hessian_bank(source, context, params.nsamples)

        def mask(block: Block, module: nn.Module, weights: dict[str, Tensor]) -> Masked:
            found = hessians.of_block(block, module)
            made = {}
            for name, weight in weights.items():
                scores = weight.float().abs() * found[name].diagonal().sqrt()
                made[name] = weight, remove(scores, params, by_row=True)
            return made

        return write_masked(source, out, params, context, mask, hessians)
