"""Which experts of a mixture to keep."""

from __future__ import annotations

import torch
from torch import Tensor


def strongest(scores: Tensor, count: int, *, groups: int = 1) -> list[int]:
    """Numbers of the experts with the largest scores, rising; of equal ones the first.

    Args:
        scores: (experts,), finite.
        count: experts to keep.
        groups: of neighbouring experts, each of which keeps the same number; divides both.
    """
    size = len(scores) // groups
    order = scores.reshape(groups, size).sort(dim=1, descending=True, stable=True).indices
    kept = order[:, : count // groups] + size * torch.arange(groups, device=order.device)[:, None]
    return sorted(kept.flatten().tolist())
