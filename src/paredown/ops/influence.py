"""How much a block changes what goes through it."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity


def block_influence(before: Tensor, after: Tensor) -> Tensor:
    """1 - cos(input, output) of each token: 0 where a block changes no direction, at most 2.

    Args:
        before, after: (..., width) hidden states in front of and behind a block.

    Returns:
        (...) float32.

    Source: ShortGPT (arXiv:2403.03853), eq. 1.
    """
    return 1.0 - cosine_similarity(before.float(), after.float(), dim=-1)
