"""Today's GPTQ solver beside that of the first release, in turns, on matrices of one input.

For every shape: the matrix on one grid, and on six from one factorisation, as a plan's bank wants
it. Times are processor seconds of this process, so what else runs counts little; codes and scales
are compared, and any that differs ends the benchmark. Part of `gptq.py`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import gptq_before
import torch
from common import Ratio, ratio, table
from torch import Tensor

from paredown.ops import compiled
from paredown.ops.affine import fit_grid
from paredown.ops.gptq import Curvature, Problem, curvature

_T = TypeVar("_T")
SHAPES = "960x576,576x576,3072x576,576x1536"
"""Of SmolLM2-135M: query, key and value together; output; gate and up together; down."""
ONE = ((4, 64, True),)
SIX = tuple((bits, 64, False) for bits in (2, 3, 4, 5, 6, 8))
"""(bits, group size, symmetric): the options of `mixed`."""


def measure_solver(shapes: str, repeats: int) -> list[dict[str, Any]]:
    """One row for each shape and choice of grids; `repeats` of each, an odd number."""
    compiled.loops()  # compiled or read before the clock runs
    rows = []
    for shape in shapes.split(","):
        out, width = (int(side) for side in shape.split("x"))
        weight, hessian = sample(out, width)
        for grids in (ONE, SIX):
            row = {"shape": shape, "grids": len(grids)}
            rows.append(row | compare(weight, hessian, grids, repeats))
    return rows


def show_solver(rows: list[dict[str, Any]]) -> None:
    """Print seconds and ratios."""
    how = "with" if compiled.loops() else "without"
    print(f"solver, {how} compiled loops, {torch.get_num_threads()} thread(s), processor seconds:")
    head = ("out x inp", "grids", "factor", "before", "now", "now / before", "factor counted")
    lines = [head] + [
        (
            row["shape"],
            str(row["grids"]),
            *(f"{row[key]:.3f}" for key in ("factor_s", "before_s", "now_s")),
            *(str(Ratio(**row[key])) for key in ("solve", "whole")),
        )
        for row in rows
    ]
    print(table(lines))


def sample(out: int, width: int) -> tuple[Tensor, Tensor]:
    """A matrix, and second moments whose features are correlated and of unequal size."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(width // 8, width, generator=generator)
    inputs = torch.randn(4 * width, width // 8, generator=generator) @ shared
    inputs += torch.randn(4 * width, width, generator=generator)
    inputs *= torch.rand(width, generator=generator) * 3
    return torch.randn(out, width, generator=generator) * 0.02, inputs.T @ inputs / len(inputs)


def compare(
    weight: Tensor, hessian: Tensor, grids: tuple[tuple[int, int, bool], ...], repeats: int
) -> dict[str, Any]:
    """Both solvers in turns, and how many of their codes and scales differ."""
    factored, inputs = timed(lambda: curvature(hessian, act_order=True))

    def before(inputs: Curvature) -> list[tuple[Tensor, Tensor]]:
        made = [gptq_before.solve(weight, inputs, **words(*grid)) for grid in grids]
        return [(codes, grid.scale) for codes, grid, _, _ in made]

    def now(inputs: Curvature) -> list[tuple[Tensor, Tensor]]:
        problem = Problem(weight, inputs)
        made = []
        for grid in grids:
            fitted = fit_grid(problem.weight, importance=inputs.importance, **words(*grid))
            made.append((problem.solve_on(fitted).codes, fitted.scale))
        return made

    seconds: dict[str, list[float]] = {"before": [], "now": []}
    differ = 0
    for _ in range(repeats):
        spent, old = timed(lambda: before(inputs))
        seconds["before"].append(spent)
        spent, new = timed(lambda: now(inputs))
        seconds["now"].append(spent)
        for one, other in zip(old, new, strict=True):
            differ += sum(int((a != b).sum()) for a, b in zip(one, other, strict=True))
    if differ:
        raise SystemExit(f"{differ} codes or scales differ from those of the first release")
    whole = {who: [factored + spent for spent in values] for who, values in seconds.items()}
    return {
        "factor_s": factored,
        "before_s": statistics.median(seconds["before"]),
        "now_s": statistics.median(seconds["now"]),
        "solve": asdict(ratio(seconds["now"], seconds["before"])),
        "whole": asdict(ratio(whole["now"], whole["before"])),
    }


def words(bits: int, group_size: int, symmetric: bool) -> dict[str, Any]:
    """Of a grid, for `fit_grid`."""
    return {
        "bits": bits,
        "group_size": group_size,
        "symmetric": symmetric,
        "scale_dtype": torch.bfloat16,
        "steps": 20,
    }


def timed(call: Callable[[], _T]) -> tuple[float, _T]:
    """Processor seconds, and the result."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result
