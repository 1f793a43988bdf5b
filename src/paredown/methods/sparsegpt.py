"""SparseGPT: weights are removed one column after the other, the rest makes good for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from paredown.methods.base import Context
from paredown.methods.shared.masks import MaskMethod, MaskParams, write_masked
from paredown.methods.shared.samples import SampledParams, hessian_bank, kept_moments

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.masks import Masked
    from paredown.spec.model import ModelSpec
    from paredown.spec.structure import Block
    from paredown.store.cache import Cache


class SparseGptParams(MaskParams, SampledParams):
    """Parameters of `sparsegpt`."""

    damping: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the Hessian's mean diagonal added to its diagonal."""


@final
class SparseGpt(MaskMethod[SparseGptParams]):
    """Second-order pruning, arXiv:2301.00774; the same share goes from every 128 columns.

    The Hessians are those of the uncompressed model's activations, shared with `gptq`.
    """

    name = "sparsegpt"
    summary = "zero weights and correct the others, on calibration text"
    params_type = SparseGptParams
    needs_data = True

    def disk(self, spec: ModelSpec, params: SparseGptParams, cache: Cache) -> tuple[int, int]:
        return 0, kept_moments(spec, cache)

    def apply(
        self, source: Checkpoint, out: Path, params: SparseGptParams, context: Context
    ) -> Tensor:
        from paredown.ops.sparsegpt import solve

        hessians = hessian_bank(source, context, params.nsamples)

        def mask(block: Block, module: nn.Module, weights: dict[str, Tensor]) -> Masked:
            found = hessians.of_block(block, module)
            return {
                name: solve(
                    weight,
                    found[name],
                    removed=params.removed_of(weight.numel()),
                    group=params.group,
                    damping=params.damping,
                )
                for name, weight in weights.items()
            }

        return write_masked(source, out, params, context, mask, hessians)
