"""SparseGPT: pruning column by column, each loss made good by the columns still to come.

Source: Frantar and Alistarh 2023 (arXiv:2301.00774), algorithm 1, with the Cholesky form that it
shares with GPTQ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paredown.ops.affine import require_finite
from paredown.ops.columns import COLUMNS
from paredown.ops.gptq import inverse_factor
from paredown.ops.masks import smallest_of_groups, smallest_of_layer


def solve(
    weight: Tensor,
    hessian: Tensor,
    *,
    removed: int = 0,
    group: tuple[int, int] | None = None,
    mask: Tensor | None = None,
    damping: float = 0.01,
) -> tuple[Tensor, Tensor]:
    """Remove weights so that the layer's outputs, not its entries, change least.

    Which weights go is decided block of columns by block of columns (every `COLUMNS`; for N:M,
    group by group), among the weights as corrected so far, by w^2 / [H^-1]_jj of the columns
    that are still free.

    Args:
        weight: (out, inp), any float dtype; solved in float32.
        hessian: (inp, inp) mean of x x^T over calibration tokens (any positive multiple will do).
        removed: weights to remove in all; every block of columns gives its share.
        group: (n, m): instead, remove n of every m neighbouring input features; m divides
            `COLUMNS` and inp.
        mask: (out, inp) bool: instead, remove these.
        damping: share of the mean diagonal added to the diagonal.

    Returns:
        New weights (out, inp) float32, zero where removed; and what is removed, (out, inp) bool.

    Raises:
        NumericsError: weight or Hessian not finite, or no Cholesky factor.
    """
    require_finite(weight)
    # A copy even of float32, for which .float() is the caller's own tensor.
    work = weight.float().clone()
    factor = inverse_factor(hessian, damping)
    chosen = torch.zeros_like(work, dtype=torch.bool) if mask is None else mask.clone()
    width = work.shape[1]
    for start in range(0, width, COLUMNS):
        stop = min(start + COLUMNS, width)
        local = factor[start:stop, start:stop]
        if mask is None and group is None:
            # Differences of a running total: the shares of all blocks add up to just `removed`.
            share = removed * stop // width - removed * start // width
            chosen[:, start:stop] = smallest_of_layer(_scores(work[:, start:stop], local), share)
        part, gone = work[:, start:stop].T.contiguous(), chosen[:, start:stop].T.contiguous()
        errors = _solve_columns(part, gone, local, group)
        work[:, start:stop], chosen[:, start:stop] = part.T, gone.T
        work[:, stop:] -= errors.T @ factor[start:stop, stop:]
    # A column is never written once it is solved, so what goes still has its last value.
    return work.masked_fill_(chosen, 0.0), chosen


def _scores(part: Tensor, factor: Tensor) -> Tensor:
    """w^2 / [H^-1]_jj of (out, columns), with H of the columns from j on."""
    return (part / factor.diagonal()).square()


def _solve_columns(
    part: Tensor, gone: Tensor, factor: Tensor, group: tuple[int, int] | None
) -> Tensor:
    """Remove within one block of columns, in place; returns the errors. All (columns, out)."""
    errors = torch.empty_like(part)
    for i in range(len(part)):
        if group is not None and i % group[1] == 0:
            here = slice(i, i + group[1])
            # Only now: the columns before the group have changed what its weights are.
            scores = _scores(part[here].T, factor[here, here])
            gone[here] = smallest_of_groups(scores, group[1], group[0]).T
        # Algorithm 1 with Q = 0 where a weight goes; one that stays makes no error.
        errors[i] = part[i].masked_fill(~gone[i], 0.0) / factor[i, i]
        part[i + 1 :].addr_(factor[i, i + 1 :], errors[i], alpha=-1.0)
    return errors
