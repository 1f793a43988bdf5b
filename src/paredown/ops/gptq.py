"""GPTQ: rounding column by column, each column's error made good by the columns still to come.

Source: Frantar et al. 2022 (arXiv:2210.17323), algorithm 1, with its Cholesky form; static
groups with activation order as in its public code.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor

from paredown.errors import NumericsError
from paredown.ops.affine import Grid, fit_grid, quantize, require_finite
from paredown.ops.columns import round_columns
from paredown.ops.errors import OutputError, row_powers
from paredown.ops.threads import one_thread

if TYPE_CHECKING:
    from paredown.ops.superblocks import SuperGrid

WIDEST_ALONE = 4096
"""Inputs up to this many are factorised by one thread, in 2 seconds or less, so that codes do not
depend on how many there are. Wider ones would take minutes, and get all threads."""


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
    # LAPACK's last bits depend on the number of threads, and codes on those.
    with one_thread() if len(hessian) <= WIDEST_ALONE else nullcontext():
        return _damped_factor(hessian, mean, damping)


def _damped_factor(hessian: Tensor, mean: Tensor, share: float) -> Tensor:
    """The factor at the first damping, from a `share` of the `mean` diagonal on, that has one."""
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


class Problem:
    """A matrix and what it reads: prepared once, solved on any number of grids.

    Attributes:
        weight: (out, inp) float32.
    """

    def __init__(self, weight: Tensor, inputs: Curvature) -> None:
        """`weight` (out, inp) may be of any float dtype; its rows do not depend on each other.

        Raises:
            NumericsError: a weight is not finite.
        """
        require_finite(weight)
        self.weight, self.inputs = weight.float(), inputs
        self._columns = self.weight.T.contiguous()
        self._powers: Tensor | None = None

    @property
    def powers(self) -> Tensor:
        """(out,) w H w^T of every row."""
        if self._powers is None:
            self._powers = row_powers(self._columns.T, self.inputs.hessian)
        return self._powers

    def round_on(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Quantise the matrix on a grid so that its outputs, not its entries, change least.

        Returns:
            Codes (out, inp) int8, and the change of the matrix, (out, inp) float32.
        """
        order = self.inputs.order
        work = self._columns[order]
        codes = round_columns(work, self.inputs.factor, grid, order // grid.group_size)
        inverse = torch.argsort(order)
        return codes[inverse].T.contiguous(), work[inverse].sub_(self._columns).T

    def solve_on(self, grid: Grid) -> Solution[Grid]:
        """`round_on`, and what it does to the outputs."""
        codes, change = self.round_on(grid)
        return Solution(codes, grid, row_powers(change, self.inputs.hessian), self.powers)


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
    """`Problem.solve_on` the affine grid that fits the matrix best.

    Args:
        weight: (out, inp), any float dtype.
        inputs: curvature of what the layer reads.
        bits, group_size, symmetric, scale_dtype, steps: see `affine.fit_grid`.

    Raises:
        NumericsError: a weight is not finite.
    """
    problem = Problem(weight, inputs)
    grid = fit_grid(
        problem.weight,
        bits=bits,
        group_size=group_size,
        symmetric=symmetric,
        scale_dtype=scale_dtype,
        importance=inputs.importance,
        steps=steps,
    )
    return problem.solve_on(grid)


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
