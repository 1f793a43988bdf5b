"""Removes the smallest weights: the data-free baseline of unstructured pruning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

from paredown.methods.base import Context
from paredown.methods.shared.masks import MaskMethod, ScopedMaskParams, remover, write_masked

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.masks import Masked
    from paredown.spec.structure import Block


class MagnitudeParams(ScopedMaskParams):
    """Parameters of `magnitude`."""


@final
class Magnitude(MaskMethod[MagnitudeParams]):
    """Set the weights of smallest |w| to zero."""

    name = "magnitude"
    summary = "zero the smallest weights; no data"
    params_type = MagnitudeParams

    def apply(
        self, source: Checkpoint, out: Path, params: MagnitudeParams, context: Context
    ) -> Tensor:
        from paredown.blocks.skeleton import read_matrix

        remove = remover(source, params, lambda name: read_matrix(source, name).float().abs())

        def mask(block: Block, module: nn.Module, weights: dict[str, Tensor]) -> Masked:
            return {name: (w, remove(w.float().abs())) for name, w in weights.items()}

        return write_masked(source, out, params, context, mask)
