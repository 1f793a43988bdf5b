"""HQQ: scales and zero-points without any data, by half-quadratic splitting.

The error of a group is measured by sum |w - w_r|^p with p < 1, which lets a few weights be far off
if that brings many near. Splitting off an auxiliary error e turns it into two easy steps that
alternate: e by shrinking the residual, the grid by least squares on w - e.

Source: Badri & Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models", and its
public code. There the zero-point is real-valued, the scale fixed, and beta absolute; here the
zero-point is an integer, as it is stored, the scale is solved for too, and residuals are measured
in steps of the grid, so that the result does not depend on the size of the weights. With integer
zero-points the steps do not always improve a group: the best grid met, the first one included, is
kept by squared error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paredown.ops.affine import Grid, fit_grid, smallest_scale

BETA = 10.0
"""Strength that ties e to the residual, at the start."""
GROWTH = 1.01
"""By what it grows with every iteration."""


def shrink(residual: Tensor, beta: float, norm: float) -> Tensor:
    """argmin_e |e|^p + beta/2 (e - r)^2, approximately: sign(r) relu(|r| - |r|^(p-1) / beta)."""
    size = residual.abs().clamp(min=1e-8)
    return residual.sign() * (size - size.pow(norm - 1.0) / beta).clamp(min=0.0)


def fit_half_quadratic(
    weight: Tensor,
    *,
    bits: int,
    group_size: int,
    symmetric: bool,
    scale_dtype: torch.dtype,
    norm: float,
    iterations: int,
    steps: int,
) -> Grid:
    """Scale and zero-point of every group, by alternating the two steps of the splitting.

    Args:
        weight: (out, inp), any float dtype; the arithmetic is done in float32.
        bits, group_size, symmetric, scale_dtype, steps: see `affine.fit_grid`, whose grid is the
            starting point; no group ends with a larger squared error than there.
        norm: p, in (0, 1].
        iterations: at most this many; it ends when an iteration improves no group.

    Raises:
        NumericsError: `weight` holds a NaN or an infinity.
    """
    start = fit_grid(
        weight,
        bits=bits,
        group_size=group_size,
        symmetric=symmetric,
        scale_dtype=scale_dtype,
        steps=steps,
    )
    groups = weight.float().reshape(len(weight), -1, group_size)  # (out, n_group, group_size)
    unit = start.scale.float()[..., None]  # (out, n_group, 1)
    best_scale, best_zero = start.scale, start.zero
    scale, zero = start.scale.float(), _zero_of(start)
    codes, residual = _round(groups, scale, zero, start)
    least = residual.square().sum(-1)  # (out, n_group)
    beta = BETA
    for _ in range(iterations):
        # w - e, with e found by shrinking the residual in steps of the first grid.
        target = groups - unit * shrink(residual / unit, beta, norm)
        scale, zero = _refit(codes, target, scale, zero, start, symmetric=symmetric)
        # As stored, so that the errors compared below are those of what is written.
        scale = scale.to(scale_dtype).float()
        codes, residual = _round(groups, scale, zero, start)
        error = residual.square().sum(-1)
        better = error < least
        if not better.any():
            break
        least = torch.where(better, error, least)
        best_scale = torch.where(better, scale.to(scale_dtype), best_scale)
        if best_zero is not None:
            best_zero = torch.where(better, zero.to(torch.int8), best_zero)
        beta *= GROWTH
    return Grid(bits, group_size, best_scale, best_zero)


def _zero_of(grid: Grid) -> Tensor:
    return torch.zeros_like(grid.scale.float()) if grid.zero is None else grid.zero.float()


def _round(groups: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Nearest codes of every group, and what they leave: both (out, n_group, group_size)."""
    step, shift = scale[..., None], zero[..., None]
    codes = ((groups / step).round_() + shift).clamp_(grid.low, grid.high)
    return codes, groups - (codes - shift) * step


def _refit(
    codes: Tensor, target: Tensor, scale: Tensor, zero: Tensor, grid: Grid, *, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Least squares of `target` on (codes - zero) scale, the zero-point rounded before the scale.

    A group whose codes are all alike, or whose slope would not be positive, keeps its scale.
    """
    if not symmetric:
        mean_code, mean_target = codes.mean(-1), target.mean(-1)
        spread = codes - mean_code[..., None]
        variance = spread.square().sum(-1)
        slope = (spread * target).sum(-1) / variance.clamp(min=1e-12)
        slope = torch.where((variance > 0) & (slope > 0), slope, scale)
        zero = (mean_code - mean_target / slope).round().clamp(grid.low, grid.high)
    offset = codes - zero[..., None]
    power = offset.square().sum(-1)
    fitted = (offset * target).sum(-1) / power.clamp(min=1e-12)
    smallest = smallest_scale(grid.scale.dtype)
    return torch.where((power > 0) & (fitted > smallest), fitted, scale), zero
