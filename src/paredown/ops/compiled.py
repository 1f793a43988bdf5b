"""Rounding's innermost loops on tensors, where numba is installed (`pip install 'paredown[fast]'`).

Without it, torch does the same, to the same bits, in about twice the time of the whole solve.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

log = logging.getLogger(__name__)

FUSED_ROWS = 32
"""Rows that are a multiple of this pass through torch's vectors of any width, without a rest."""
_SHARE = 1 << 16
"""Numbers that are worth a thread of their own."""


@cache
def loops() -> ModuleType | None:
    """The compiled loops, or None where numba is missing or torch's sums are rounded otherwise.

    The first process of all waits for the compiler, a few seconds; those after it read its work.
    """
    if find_spec("numba") is None:
        log.info("numba is not installed, so rounding takes longer: pip install 'paredown[fast]'")
        return None
    if not _torch_fuses():
        log.info("the compiled loops are not used: torch does not fuse products and sums here")
        return None
    from paredown.ops import loops as found

    return found


def _torch_fuses() -> bool:
    """Whether torch rounds w - u e once, as the compiled loop does, or its product before."""
    # The product is 1 + 2^-11 + 2^-24: its last bit is lost where it is rounded by itself.
    factors = torch.full((FUSED_ROWS,), 1 + 2**-12)
    sums = torch.full((2, FUSED_ROWS), 1 + 2**-11)
    sums.addr_(factors[:2], factors, alpha=-1.0)
    return bool((sums == -(2**-24)).all())


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="rounding")


def _in_parts(rows: int, size: int, call: Callable[[int, int], None]) -> None:
    """`call(first, last)` for all of some rows of `size` numbers, on as many threads as torch uses.

    No row depends on another, so the bits are those of one thread.
    """
    count = max(1, min(torch.get_num_threads(), rows * size // _SHARE))
    if count == 1:
        call(0, rows)
        return
    # Multiples of a cache line, so that no two threads write to the same one.
    edges = [min(rows, -(-rows * i // count) + 63 & ~63) for i in range(count)] + [rows]
    edges[0] = 0
    for _ in _threads(torch.get_num_threads()).map(call, edges[:-1], edges[1:]):
        pass


def eliminate(
    found: ModuleType,
    part: Tensor,
    *,
    errors: Tensor,
    codes: Tensor,
    scale: Tensor,
    zero: Tensor,
    group_of: Tensor,
    factor: Tensor,
    low: int,
    high: int,
) -> None:
    """`columns.eliminate` by the compiled loops `found`; all tensors contiguous, on the CPU."""
    tensors = (part, errors, codes, scale, zero, group_of, factor.contiguous())
    arrays = [tensor.numpy() for tensor in tensors]
    _in_parts(
        part.shape[1],
        len(part) ** 2 // 2,
        lambda first, last: found.eliminate(*arrays, low, high, first, last),
    )


def squares(
    found: ModuleType, groups: Tensor, scale: Tensor, zero: Tensor, weights: Tensor,
    low: int, high: int, out: Tensor,
) -> None:  # fmt: skip
    """Weighted squared error of every number by the compiled loops `found`.

    Args:
        groups: (n, group_size) float32.
        scale, zero: (n,) float32.
        weights: (m, group_size) float32; group i counts by the row i mod m.
        low, high: ends of the grid.
        out: (n, group_size) float32, contiguous; written.
    """
    tensors = (groups, scale, zero, weights)
    arrays = [tensor.detach().contiguous().numpy() for tensor in tensors]
    _in_parts(
        len(groups),
        groups.shape[1],
        lambda first, last: found.squares(*arrays, low, high, out.numpy(), first, last),
    )
