"""From final hidden states to logits: the last layer of a language model, as a function."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Readout:
    """Linear, then scaled, then soft-capped where the family does it."""

    weight: Tensor
    """(vocabulary, width)."""
    bias: Tensor | None
    """(vocabulary,)."""
    scale: float = 1.0
    cap: float = 0.0
    """Logits are cap * tanh(logits / cap); 0: they are left as they are."""

    def logits(self, hidden: Tensor) -> Tensor:
        """(tokens, vocabulary) float32 from (tokens, width)."""
        bias = None if self.bias is None else self.bias.float()
        logits = nn.functional.linear(hidden.float(), self.weight.float(), bias) * self.scale
        return torch.tanh(logits / self.cap) * self.cap if self.cap else logits
