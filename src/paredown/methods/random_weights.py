"""Removes single weights at random: what every score of weights has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

from paredown.methods.base import Context
from paredown.methods.shared.masks import MaskMethod, MaskParams, remove, write_masked

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.masks import Masked
    from paredown.spec.structure import Block


class RandomParams(MaskParams):
    """Parameters of `random`."""

    seed: int = 0
    """Which weights: another seed, another choice."""


@final
class Random(MaskMethod[RandomParams]):
    """Set weights drawn at random to zero, the same share of each layer."""

    name = "random"
    summary = "zero single weights at random: the baseline for scores of weights"
    params_type = RandomParams

    def apply(
        self, source: Checkpoint, out: Path, params: RandomParams, context: Context
    ) -> Tensor:
        import torch

        places = {name: i for i, name in enumerate(source.spec.structure.linears)}

        def mask(block: Block, module: nn.Module, weights: dict[str, Tensor]) -> Masked:
            made = {}
            for name, weight in weights.items():
                generator = torch.Generator().manual_seed(params.seed * 1_000_003 + places[name])
                scores = torch.rand(weight.shape, generator=generator).to(weight.device)
                made[name] = weight, remove(scores, params)
            return made

        return write_masked(source, out, params, context, mask)
