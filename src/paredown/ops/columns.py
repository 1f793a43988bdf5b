"""Rounding column by column, each column's error made good by the columns still to come.

Source: Frantar et al. 2022 (arXiv:2210.17323), algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from paredown.ops import compiled
from paredown.ops.affine import Grid
from paredown.ops.threads import one_thread

COLUMNS = 128
"""Columns between two updates of the rest of the matrix; affects speed only."""


def round_columns(work: Tensor, factor: Tensor, grid: Grid, group_of: Tensor) -> Tensor:
    """Codes (inp, out) int8 of a matrix whose columns are in visiting order.

    Args:
        work: (inp, out) float32, contiguous: the matrix transposed, so that one of its columns is
            a row here. Overwritten by what the codes stand for.
        factor: (inp, inp) of `gptq.inverse_factor`, in visiting order.
        grid: of the matrix in stored order.
        group_of: (inp,) group of each column, int64.
    """
    scale = grid.scale.float().T.contiguous()  # (n_group, out)
    zero = torch.zeros_like(scale) if grid.zero is None else grid.zero.T.float().contiguous()
    codes = torch.empty_like(work, dtype=torch.int8)
    width = len(work)
    space = work.new_empty(max(0, width - COLUMNS), work.shape[1])
    for start in range(0, width, COLUMNS):
        stop = min(start + COLUMNS, width)
        errors = eliminate(
            work[start:stop],
            codes=codes[start:stop],
            scale=scale,
            zero=zero,
            group_of=group_of[start:stop],
            factor=factor[start:stop, start:stop],
            low=grid.low,
            high=grid.high,
        )
        # The paper's lazy batches: columns beyond this block see its errors in one product, not in
        # a rank-one update of the whole matrix for each column.
        if stop < width:
            passed_on = factor[start:stop, stop:].T
            work[stop:] -= torch.mm(passed_on, errors, out=space[: width - stop])
    return codes


def eliminate(
    part: Tensor,
    *,
    codes: Tensor,
    scale: Tensor,
    zero: Tensor,
    group_of: Tensor,
    factor: Tensor,
    low: int,
    high: int,
) -> Tensor:
    """Round the columns of a block one after the other; return their errors over the pivots.

    Args:
        part: (columns, out) float32, contiguous; overwritten by the rounded values.
        codes: (columns, out) int8; written.
        scale, zero: (n_group, out) float32.
        group_of: (columns,) int64.
        factor: (columns, columns), upper triangular.
        low, high: ends of the grid.
    """
    if part.device.type != "cpu":
        return _eliminate(part, codes, scale, zero, group_of, factor, low, high)
    loops = compiled.loops()
    if loops is not None:
        errors = torch.empty_like(part)
        compiled.eliminate(
            loops,
            part,
            errors=errors,
            codes=codes,
            scale=scale,
            zero=zero,
            group_of=group_of,
            factor=factor,
            low=low,
            high=high,
        )
        return errors
    rest = -part.shape[1] % compiled.FUSED_ROWS
    # Rows beyond torch's last full vector would be rounded otherwise than those before it.
    padded = F.pad(part, (0, rest))
    wide = torch.empty_like(padded, dtype=torch.int8)
    scale, zero = F.pad(scale, (0, rest), value=1.0), F.pad(zero, (0, rest))
    # Threads would share out a column at any place, and round the rows beside it otherwise.
    with one_thread():
        errors = _eliminate(padded, wide, scale, zero, group_of, factor, low, high)
    part.copy_(padded[:, : part.shape[1]])
    codes.copy_(wide[:, : part.shape[1]])
    return errors[:, : part.shape[1]].contiguous()


def _eliminate(
    part: Tensor,
    codes: Tensor,
    scale: Tensor,
    zero: Tensor,
    group_of: Tensor,
    factor: Tensor,
    low: int,
    high: int,
) -> Tensor:
    errors = torch.empty_like(part)
    groups, n = group_of.tolist(), len(part)
    # Views made once: for a column of a small matrix, indexing costs as much as the arithmetic.
    scales, zeros, pivots = scale.unbind(), zero.unbind(), factor.diagonal().unbind()
    for i, (column, error, code) in enumerate(
        zip(part.unbind(), errors.unbind(), codes.unbind(), strict=True)
    ):
        group = groups[i]
        level = column.div(scales[group]).round_().add_(zeros[group]).clamp_(low, high)
        code.copy_(level)
        level.sub_(zeros[group]).mul_(scales[group])
        # Algorithm 1: E_j = (W_j - Q_j) / U_jj, then W_k -= U_jk E_j for all columns k behind j.
        torch.sub(column, level, out=error).div_(pivots[i])
        column.copy_(level)
        if i + 1 < n:
            part[i + 1 :].addr_(factor[i, i + 1 :], error, alpha=-1.0)
    return errors
