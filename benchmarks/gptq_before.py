"""The solver of the first release, one call of torch for each step of each column.

Kept as it was, for `gptq_solver.py` to set today's beside it: codes, grids and time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paredown.ops.affine import SHRINK, Grid, stored_scale
from paredown.ops.gptq import Curvature

COLUMNS = 128


def solve(
    weight: Tensor,
    inputs: Curvature,
    *,
    bits: int,
    group_size: int,
    symmetric: bool,
    scale_dtype: torch.dtype,
    steps: int = 20,
) -> tuple[Tensor, Grid, Tensor, Tensor]:
    """Codes, grid, and the power of every row's error and of the row itself."""
    torch.isfinite(weight).all()
    weight = weight.float()
    grid = fit_grid(
        weight,
        bits=bits,
        group_size=group_size,
        symmetric=symmetric,
        scale_dtype=scale_dtype,
        importance=inputs.importance,
        steps=steps,
    )
    order = inputs.order
    codes, rounded = _round_columns(weight[:, order], inputs.factor, grid, order // group_size)
    inverse = torch.argsort(order)
    errors = _row_powers(rounded[:, inverse] - weight, inputs.hessian)
    powers = _row_powers(weight, inputs.hessian)
    return codes[:, inverse].to(torch.int8), grid, errors, powers


def _row_powers(rows: Tensor, hessian: Tensor) -> Tensor:
    return ((rows @ hessian) * rows).sum(1).clamp(min=0)


def _round_columns(
    work: Tensor, factor: Tensor, grid: Grid, group_of: Tensor
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 on columns already in visiting order: codes and rounded weights."""
    scale = grid.scale.float()[:, group_of]  # (out, inp), in visiting order
    zero = None if grid.zero is None else grid.zero.float()[:, group_of]
    codes, rounded = torch.empty_like(work), torch.empty_like(work)
    width = work.shape[1]
    for start in range(0, width, COLUMNS):
        stop = min(start + COLUMNS, width)
        part = work[:, start:stop].T.contiguous()  # (columns, out): a column is contiguous
        scales = scale[:, start:stop].T.contiguous()
        zeros = None if zero is None else zero[:, start:stop].T.contiguous()
        local = factor[start:stop, start:stop]
        errors = torch.empty_like(part)
        for i in range(stop - start):
            column = part[i]
            code = (column / scales[i]).round_()
            if zeros is not None:
                code = (code + zeros[i]).clamp_(grid.low, grid.high)
                value = (code - zeros[i]) * scales[i]
            else:
                code = code.clamp_(grid.low, grid.high)
                value = code * scales[i]
            # Algorithm 1: E_j = (W_j - Q_j) / U_jj, then W_k -= U_jk E_j for all columns k behind
            # j.
            errors[i] = (column - value) / local[i, i]
            if i + 1 < stop - start:
                part[i + 1 :].addr_(local[i, i + 1 :], errors[i], alpha=-1.0)
            codes[:, start + i], rounded[:, start + i] = code, value
        # The paper's lazy batches: columns beyond this block see its errors in one product, not in
        # a rank-one update of the whole matrix for each column.
        work[:, stop:] -= errors.T @ factor[start:stop, stop:]
    return codes, rounded


def fit_grid(
    weight: Tensor,
    *,
    bits: int,
    group_size: int,
    symmetric: bool,
    scale_dtype: torch.dtype,
    importance: Tensor | None = None,
    steps: int = 0,
) -> Grid:
    groups = weight.float().reshape(len(weight), -1, group_size)  # (out, n_group, group_size)
    weights = (
        None if importance is None else importance.float().reshape(1, -1, group_size)
    )  # (1, n_group, group_size)
    # The range always holds 0, so the zero-point is a code and a weight of zero stays zero.
    low, high = groups.amin(-1).clamp(max=0.0), groups.amax(-1).clamp(min=0.0)  # (out, n_group)
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high
    best = _grid(low, high, bits, group_size, symmetric, scale_dtype)
    if steps == 0:
        return best
    best_scale, best_zero = best.scale, best.zero
    least = _group_error(groups, best, weights)  # (out, n_group)
    for i in range(1, steps + 1):
        factor = 1.0 - (1.0 - SHRINK) * i / steps
        trial = _grid(low * factor, high * factor, bits, group_size, symmetric, scale_dtype)
        error = _group_error(groups, trial, weights)
        better = error < least
        least = torch.where(better, error, least)
        best_scale = torch.where(better, trial.scale, best_scale)
        if best_zero is not None and trial.zero is not None:
            best_zero = torch.where(better, trial.zero, best_zero)
    return Grid(bits, group_size, best_scale, best_zero)


def _grid(
    low: Tensor, high: Tensor, bits: int, group_size: int, symmetric: bool, dtype: torch.dtype
) -> Grid:
    levels = 2**bits - 1
    # A symmetric range ends half a step beyond the highest code (7.5 steps at 4 bits), so the
    # largest positive weight is clipped by half a step at most.
    scale = stored_scale((high - low) / levels, dtype, levels)
    if symmetric:
        return Grid(bits, group_size, scale, None)
    bottom = -(2 ** (bits - 1))
    # The lowest weight of the range gets the lowest code.
    zero = (bottom - low / scale.float()).round().clamp(bottom, bottom + levels)
    return Grid(bits, group_size, scale, zero.to(torch.int8))


def _group_error(groups: Tensor, grid: Grid, weights: Tensor | None) -> Tensor:
    """Squared error of every group, (out, n_group)."""
    scale = grid.scale.float()[..., None]
    zero = 0.0 if grid.zero is None else grid.zero.float()[..., None]
    # In place: one temporary of the matrix's size for every range that is tried.
    codes = (groups / scale).round_().add_(zero).clamp_(grid.low, grid.high)
    error = codes.sub_(zero).mul_(scale).sub_(groups).square_()
    return (error if weights is None else error.mul_(weights)).sum(-1)
