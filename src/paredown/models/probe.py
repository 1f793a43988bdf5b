"""Proof that an artifact is the model that was compressed.

`probe` computes logits on fixed tokens; an artifact counts only when every loader it claims gives,
in a fresh process, the logits that were computed from the weights in memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paredown.errors import VerificationError
from paredown.ops.divergence import kl_rows

PROBE_TOKENS = 64
KL_TOLERANCE = 0.02
"""Mean KL in nats per token between two ways of computing the same weights in 16 bits."""


def probe_tokens(vocabulary: int) -> Tensor:
    """Fixed token ids (1, PROBE_TOKENS), spread over the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, vocabulary, (1, PROBE_TOKENS), generator=generator)


@torch.no_grad()
def probe(model: Any, tokens: Tensor) -> Tensor:
    """Logits (tokens, vocabulary) in float32 on the CPU.

    Raises:
        VerificationError: they are not finite.
    """
    logits: Tensor = model(tokens.to(model.device), use_cache=False).logits[0].float().cpu()
    if not torch.isfinite(logits).all():
        raise VerificationError("the model's logits are not finite")
    return logits


def compare(expected: Tensor, found: Tensor, loader: str) -> float:
    """Mean KL in nats per token of `found` from `expected` logits.

    Raises:
        VerificationError: more than `KL_TOLERANCE`: what was reloaded is another model.
    """
    if expected.shape != found.shape:
        raise VerificationError(
            f"reloaded through {loader}: logits {tuple(found.shape)}, not {tuple(expected.shape)}"
        )
    mean = float(kl_rows(expected.log_softmax(-1), found.log_softmax(-1)).mean())
    if not mean <= KL_TOLERANCE:
        raise VerificationError(
            f"reloaded through {loader}, the model is not the one that was compressed: "
            f"KL {mean:.3g} nats per token, at most {KL_TOLERANCE} is rounding"
        )
    return mean
