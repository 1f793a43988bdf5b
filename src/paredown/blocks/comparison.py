"""KL of rounded models from the base, measured in memory, a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.embeddings import attach_rounded
from paredown.blocks.rewrite import probe_walk
from paredown.blocks.walk import BlockWalk, submodule
from paredown.ops.divergence import kl_rows
from paredown.ops.grids import AnyGrid, dequantize
from paredown.spec.structure import Block

Rounded = Mapping[str, tuple[Tensor, AnyGrid]]
"""Codes and grid by layer name."""
_ROWS = 128
"""Positions whose probabilities are held in float32 at once, twice."""


def _no_layers(block: Block) -> Rounded:
    return {}


class Comparison:
    """The base on some windows of text, and how far rounded copies of it are from that."""

    def __init__(
        self, source: Checkpoint, tokens: Tensor, *, device: str, trust_remote_code: bool = False
    ) -> None:
        """Run the base. `tokens` are (samples, length) int64.

        Raises:
            MethodError: the family's blocks cannot be walked through.
        """
        self.source, self.tokens = source, tokens
        self.device, self.trust_remote_code = device, trust_remote_code
        self._base = self._walk()
        self._base.embed(tokens)
        for block, module in self._base:
            self._base.advance(block, module)

    def _walk(self) -> BlockWalk:
        return probe_walk(self.source, device=self.device, trust_remote_code=self.trust_remote_code)

    def kl(
        self, *, layers: Callable[[Block], Rounded] = _no_layers, embeddings: Rounded | None = None
    ) -> float:
        """Mean KL(base || rounded), nats per token.

        Args:
            layers: codes of those block linears that are rounded, asked block by block.
            embeddings: of embedding and head, by name, where they are rounded.
        """
        walk = self._walk()
        if embeddings:
            attach_rounded(walk, dict(embeddings), self.source)
        walk.embed(self.tokens)
        for block, module in walk:
            for name, (codes, grid) in layers(block).items():
                weight = dequantize(codes, grid, walk.dtype).to(self.device)
                submodule(module, block, name).weight.data = weight
            walk.advance(block, module)
        total = 0.0
        pairs = zip(self._base.window_logits(), walk.window_logits(), strict=True)
        for base, made in pairs:
            for start in range(0, len(base), _ROWS):
                part = slice(start, start + _ROWS)
                wanted = torch.log_softmax(base[part].float(), dim=-1)
                found = torch.log_softmax(made[part].float(), dim=-1)
                total += float(kl_rows(wanted, found).sum())
        return total / self.tokens.numel()
