"""Fixed tokens on which a model that is rewritten block by block, and its artifact, are judged."""

from __future__ import annotations

import torch
from torch import Tensor

PROBE_TOKENS = 64


def probe_tokens(vocabulary: int) -> Tensor:
    """Fixed token ids (1, PROBE_TOKENS), spread over the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, vocabulary, (1, PROBE_TOKENS), generator=generator)
