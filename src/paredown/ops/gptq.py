"""GPTQ: rounding column by column, each column's error made good by the columns still to come.

Source: Frantar et al. 2022 (arXiv:2210.17323), algorithm 1, with its Cholesky form; static
groups with activation order as in its public code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor

from paredown.errors import NumericsError
from paredown.ops.affine import Grid, fit_grid, quantize, require_finite
from paredown.ops.errors import OutputError, row_powers

if TYPE_CHECKING:
    from paredown.ops.superblocks import SuperGrid

COLUMNS = 128
"""Columns between two updates of the rest of the matrix; affects speed only."""


G = TypeVar("G", bound="Grid | SuperGrid", covariant=True)
"""The kind of grid."""


@dataclass(frozen=True)
class Solution(Generic[G]):
    """Codes (out, inp) int8 on a grid, and the squared output error they leave.

    Attributes:
        errors: (out,) dw H dw^T of every row, with H = mean x x^T: the mean squared error of one
            output feature on the calibration tokens.
        powers: (out,) w H w^T of every row: the mean square of that feature.
    """

    codes: Tensor
    grid: G
    errors: Tensor
    powers: Tensor

    @property
    def error(self) -> float:
        """tr(E H E^T), E the change of the matrix: see `ops.errors`."""
        return float(self.errors.sum())

    def error_of(self, start: int, stop: int) -> OutputError:
        """Of the layer that some rows of a stacked matrix belong to."""
        squared, power = self.errors[start:stop].sum(), self.powers[start:stop].sum()
        return OutputError(float(squared), float(power))


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor U of the damped inverse: (H + damping mean(diag H) I)^-1 = U^T U.

    Args:
        hessian: (inp, inp) symmetric positive semidefinite, float32.
        damping: share of the mean diagonal; grows tenfold, up to 1, where the factor fails.

    Raises:
        NumericsError: not finite, or not positive definite at any damping.
    """
    require_finite(hessian, "hessian")
    mean = hessian.diagonal().mean()
    if mean <= 0:
        # Nothing was ever seen. The identity passes no error on: rounding to nearest.
        return torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    share = damping
    while True:
        damped = hessian.clone()
        damped.diagonal().add_(share * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            inverse = torch.cholesky_inverse(lower)
            # May fail where H itself did not: rounding can leave the inverse indefinite.
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not failed:
                factor: Tensor = upper
                return factor
        if share >= 1.0:
            break
        # From 1e-6 on, or a damping of 0 would never grow.
        share = min(1.0, 10 * max(share, 1e-6))
    raise NumericsError("the Hessian is not positive definite, even with damping 1")


@dataclass(frozen=True)
class Curvature:
    """What a solve needs of an input's second moments; one serves every matrix and every option.

    Attributes:
        hessian: (inp, inp) mean of x x^T, in stored order.
        order: (inp,) in which columns are visited.
        factor: (inp, inp) of `inverse_factor`, in visiting order.
        importance: (inp,) weight of each input feature's squared error, for `fit_grid`.
    """

    hessian: Tensor
    order: Tensor
    factor: Tensor
    importance: Tensor


def curvature(hessian: Tensor, *, act_order: bool, damping: float = 0.01) -> Curvature:
    """Order and factorise the second moments of an input.

    Args:
        hessian: (inp, inp) mean of x x^T over calibration tokens (any positive multiple will do).
        act_order: visit columns by falling Hessian diagonal; groups stay those of the stored
            order, so that no index has to be stored with the weights.
        damping: share of the mean diagonal added to the diagonal.

    Raises:
        NumericsError: not finite, or no Cholesky factor.
    """
    diagonal = hessian.diagonal()
    # A feature never seen in calibration says nothing: its weights keep their rounding alone.
    importance = torch.where(diagonal > 0, diagonal, diagonal.mean()).clamp(min=1e-12)
    order = (
        torch.argsort(diagonal, descending=True, stable=True)
        if act_order
        else torch.arange(len(diagonal), device=hessian.device)
    )
    factor = inverse_factor(hessian[order][:, order], damping)
    return Curvature(hessian, order, factor, importance)


def solve(
    weight: Tensor,
    inputs: Curvature,
    *,
    bits: int,
    group_size: int,
    symmetric: bool,
    scale_dtype: torch.dtype,
    steps: int = 20,
) -> Solution[Grid]:
    """`solve_on` the affine grid that fits the matrix best.

    Args:
        weight: (out, inp), any float dtype.
        inputs: curvature of what the layer reads.
        bits, group_size, symmetric, scale_dtype, steps: see `affine.fit_grid`.

    Raises:
        NumericsError: a weight is not finite.
    """
    grid = fit_grid(
        weight,
        bits=bits,
        group_size=group_size,
        symmetric=symmetric,
        scale_dtype=scale_dtype,
        importance=inputs.importance,
        steps=steps,
    )
    return solve_on(weight, inputs, grid)


def solve_on(weight: Tensor, inputs: Curvature, grid: Grid) -> Solution[Grid]:
    """Quantise a weight matrix so that its outputs, not its entries, change least.

    Args:
        weight: (out, inp), any float dtype; solved in float32. Rows do not depend on each other.
        inputs: curvature of what the layer reads.
        grid: on which codes are chosen.

    Raises:
        NumericsError: a weight is not finite.
    """
    require_finite(weight)
    weight = weight.float()
    order = inputs.order
    group_of = order // grid.group_size
    codes, rounded = _round_columns(weight[:, order], inputs.factor, grid, group_of)
    inverse = torch.argsort(order)
    errors = row_powers(rounded[:, inverse] - weight, inputs.hessian)
    powers = row_powers(weight, inputs.hessian)
    return Solution(codes[:, inverse].to(torch.int8), grid, errors, powers)


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


def round_to_nearest(
    weight: Tensor,
    *,
    bits: int,
    group_size: int,
    symmetric: bool,
    scale_dtype: torch.dtype,
    steps: int,
) -> tuple[Tensor, Grid]:
    """Codes and grid without any data: the baseline."""
    grid = fit_grid(
        weight,
        bits=bits,
        group_size=group_size,
        symmetric=symmetric,
        scale_dtype=scale_dtype,
        steps=steps,
    )
    return quantize(weight, grid), grid
