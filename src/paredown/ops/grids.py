"""Integer grids of every kind, by the scheme that names them: fitted, rounded on, taken apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from paredown.ops import affine
from paredown.ops.affine import Grid
from paredown.ops.errors import row_powers
from paredown.ops.gptq import Problem, Solution
from paredown.ops.superblocks import SuperGrid, dequantize_super, fit_super, quantize_super
from paredown.spec.scheme import GridKind, Scheme

AnyGrid = Grid | SuperGrid


def fit(
    weight: Tensor,
    scheme: Scheme,
    *,
    scale_dtype: torch.dtype,
    importance: Tensor | None = None,
    steps: int = 0,
) -> AnyGrid:
    """Choose the grid of a matrix (out, inp).

    Args:
        scale_dtype: dtype in which scales of one-level grids will be stored.
        importance, steps: see `affine.fit_grid` and `superblocks.fit_super`.

    Raises:
        NumericsError: a weight is not finite.
    """
    if scheme.kind is GridKind.SUPERBLOCK:
        return fit_super(weight, bits=scheme.bits, importance=importance, steps=steps)
    return affine.fit_grid(
        weight,
        bits=scheme.bits,
        group_size=scheme.group_width(weight.shape[1]),
        symmetric=scheme.symmetric,
        scale_dtype=scale_dtype,
        importance=importance,
        steps=steps,
        scale_bits=scheme.scale_bits,
    )


def quantize(weight: Tensor, grid: AnyGrid) -> Tensor:
    """Nearest codes of `weight` (out, inp) on `grid`: int8 (out, inp)."""
    if isinstance(grid, SuperGrid):
        return quantize_super(weight, grid)
    return affine.quantize(weight, grid)


def dequantize(codes: Tensor, grid: AnyGrid, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weights that codes stand for, (out, inp) in `dtype`; computed in float32."""
    if isinstance(grid, SuperGrid):
        return dequantize_super(codes, grid, dtype)
    return affine.dequantize(codes, grid, dtype)


def nearest(
    weight: Tensor, scheme: Scheme, *, scale_dtype: torch.dtype, steps: int
) -> tuple[Tensor, AnyGrid]:
    """Codes and grid without any data: the baseline."""
    grid = fit(weight, scheme, scale_dtype=scale_dtype, steps=steps)
    return quantize(weight, grid), grid


def compensated(
    problem: Problem, scheme: Scheme, *, scale_dtype: torch.dtype, steps: int = 20
) -> tuple[Tensor, AnyGrid, Tensor]:
    """Codes by GPTQ on the grid that fits the matrix, the grid, and the change of the matrix."""
    weight, inputs = problem.weight, problem.inputs
    grid = fit(weight, scheme, scale_dtype=scale_dtype, importance=inputs.importance, steps=steps)
    if isinstance(grid, Grid):
        codes, change = problem.round_on(grid)
    else:
        # Errors, and so all that is passed on between columns, are those of the weights themselves.
        moved, affine_grid = grid.shifted(weight)
        codes, change = Problem(moved, inputs).round_on(affine_grid)
    return codes, grid, change


def solve(
    problem: Problem, scheme: Scheme, *, scale_dtype: torch.dtype, steps: int = 20
) -> Solution[AnyGrid]:
    """`compensated`, and what it does to the outputs."""
    codes, grid, change = compensated(problem, scheme, scale_dtype=scale_dtype, steps=steps)
    return Solution(codes, grid, row_powers(change, problem.inputs.hessian), problem.powers)


def stack(grids: Sequence[AnyGrid]) -> AnyGrid:
    """The grid of matrices one above the other, all of one kind."""
    parts = [grid.tensors() for grid in grids]
    return grids[0].with_tensors({name: torch.cat([p[name] for p in parts]) for name in parts[0]})


def grid_of(scheme: Scheme, width: int, tensors: Mapping[str, Tensor]) -> AnyGrid:
    """The grid with these `tensors()`, of a matrix of `width` inputs."""
    if scheme.kind is GridKind.SUPERBLOCK:
        return SuperGrid.of(scheme.bits, tensors)
    group = scheme.group_width(width)
    return Grid(scheme.bits, group, tensors["scale"], tensors.get("zero"))
