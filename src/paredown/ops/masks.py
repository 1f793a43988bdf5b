"""Which weights go: exact numbers of the smallest scores, by row, by layer, in N:M groups, or over
a whole model. A mask is True where a weight is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_HALF = 16
_LOW = (1 << _HALF) - 1


def smallest(scores: Tensor, count: int) -> Tensor:
    """The `count` smallest scores of each row; of equal ones, those that come first.

    Args:
        scores: (rows, n), without NaN.
        count: 0 to n.

    Returns:
        (rows, n) bool with exactly `count` True in each row.
    """
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    largest = scores.kthvalue(count, dim=-1, keepdim=True).values
    below = scores < largest
    # All scores that equal the k-th may be too many: the exact number matters.
    ties = scores == largest
    wanted = count - below.sum(-1, keepdim=True)
    return below | (ties & (ties.cumsum(-1) <= wanted))


def smallest_of_layer(scores: Tensor, count: int) -> Tensor:
    """The `count` smallest scores of a matrix (out, inp): (out, inp) bool."""
    return smallest(scores.reshape(1, -1), count).reshape(scores.shape)


def smallest_of_groups(scores: Tensor, group: int, count: int) -> Tensor:
    """The `count` smallest of every `group` neighbouring input features: N:M sparsity.

    Args:
        scores: (out, inp); `group` divides inp.

    Returns:
        (out, inp) bool with exactly `count` True in each group.
    """
    parts = scores.reshape(-1, group)
    order = parts.argsort(dim=-1, stable=True)[:, :count]
    mask = torch.zeros_like(parts, dtype=torch.bool)
    return mask.scatter_(-1, order, torch.ones_like(order, dtype=torch.bool)).reshape(scores.shape)


def cutoff(scores: Callable[[], Iterable[Tensor]], count: int) -> tuple[float, int]:
    """The `count`-th smallest of more scores than fit into memory, by two passes over them.

    Bit patterns of non-negative floats rise with their value, so one histogram of the upper half
    of the bits and one of the lower half find the value exactly.

    Args:
        scores: called twice; gives all scores, float32 >= 0, in parts.
        count: 1 to their number.

    Returns:
        The value, and how many scores equal to it belong to the `count` smallest; see `cut`.
    """
    upper, before = _bucket(_histogram(_bits(part) >> _HALF for part in scores()), count)
    lower_bits = (
        bits[bits >> _HALF == upper] & _LOW for bits in (_bits(part) for part in scores())
    )
    lower, below = _bucket(_histogram(lower_bits), count - before)
    pattern = torch.tensor((upper << _HALF) | lower, dtype=torch.int32)
    return float(pattern.view(torch.float32)), count - before - below


def cut(scores: Tensor, value: float, ties: int) -> tuple[Tensor, int]:
    """The scores below `value`, and the first `ties` of those equal to it.

    Returns:
        The mask, in the shape of `scores`, and how many ties are left for the parts to come.
    """
    equal = scores == value
    flat = equal.reshape(-1)
    first = (flat & (flat.cumsum(0) <= ties)).reshape(scores.shape)
    return (scores < value) | first, ties - int(first.sum())


def _bits(part: Tensor) -> Tensor:
    return part.reshape(-1).float().contiguous().view(torch.int32)


def _histogram(parts: Iterable[Tensor]) -> Tensor:
    total = torch.zeros(1 << _HALF, dtype=torch.int64)
    for part in parts:
        total += part.bincount(minlength=1 << _HALF).cpu()
    return total


def _bucket(histogram: Tensor, count: int) -> tuple[int, int]:
    """The bucket that holds the `count`-th element, and how many lie in the buckets before."""
    sums = histogram.cumsum(0)
    index = int(torch.searchsorted(sums, count))
    return index, int(sums[index - 1]) if index else 0
