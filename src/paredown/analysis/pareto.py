"""Non-dominated rows of a table of costs, at the resolution with which they were measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]


def pareto_mask(costs: ArrayLike, *, resolution: ArrayLike | None = None) -> Mask:
    """Which rows no other row dominates; every column is to be minimised.

    Row a dominates row b if a is nowhere worse and somewhere better. Equal rows do not dominate
    each other: both are kept.

    A measured column has noise, and noise alone would put nearly every row on the front. With a
    `resolution`, values are therefore compared by boxes of a logarithmic grid whose first box
    begins at the column's smallest value: `floor(log(x / min) / log(1 + resolution))`. All values
    less than a factor `1 + resolution` above the best one thus count as equally good, whatever
    their unit. Between rows that share all boxes the values themselves decide. This relation is
    transitive, so the front is never empty, and nothing real is lost: for every row left out,
    a row of the front is nowhere worse by the factor `1 + resolution` or more.

    Args:
        costs: (n, k), finite; compared pairwise, so n should stay in the thousands.
        resolution: (k,) relative noise of each column, e.g. 0.05; 0 compares it exactly, and a
            column with a resolution above 0 must be positive. None: all exact.

    Returns:
        (n,) bool.

    Raises:
        ValueError: wrong shapes, values that are not finite, or a resolution that cannot apply.

    Source: box dominance, Laumanns, Thiele, Deb, Zitzler 2002, "Combining convergence and
    diversity in evolutionary multiobjective optimization" (function `box`); the origin of the
    grid, free there, is put at the best value.
    """
    rows = require_costs(costs)
    dominates = _dominates(rows)
    if resolution is not None:
        boxes = _boxes(rows, resolution)
        same_box: Mask = np.ones((len(rows), len(rows)), dtype=np.bool_)  # (n, n)
        for column in boxes.T:
            same_box &= column[:, None] == column[None, :]
        dominates = _dominates(boxes) | (same_box & dominates)
    on_front: Mask = ~np.any(dominates, axis=0)
    return on_front


def require_costs(costs: ArrayLike) -> FloatArray:
    """`costs` as an (n, k) float array.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    rows = np.asarray(costs, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"costs must have shape (n, k) with k >= 1, got {rows.shape}")
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise ValueError(f"costs must be finite, got {rows[bad][0].tolist()} in row {bad.argmax()}")
    return rows


def _dominates(rows: FloatArray) -> Mask:
    """(n, n): entry [a, b] tells whether row a dominates row b."""
    # Column by column: (n, n, k) would take k times the memory, a gigabyte for ten thousand rows.
    no_worse: Mask = np.ones((len(rows), len(rows)), dtype=np.bool_)
    better: Mask = np.zeros((len(rows), len(rows)), dtype=np.bool_)
    for column in rows.T:
        no_worse &= column[:, None] <= column[None, :]
        better |= column[:, None] < column[None, :]
    return no_worse & better


def _boxes(rows: FloatArray, resolution: ArrayLike) -> FloatArray:
    """Box numbers of columns with a resolution; the others stay as they are."""
    steps = np.asarray(resolution, dtype=np.float64)
    if steps.shape != rows.shape[1:]:
        raise ValueError(f"resolution must have shape {rows.shape[1:]}, got {steps.shape}")
    if not (np.isfinite(steps) & (steps >= 0)).all():
        raise ValueError(f"resolution must be finite and >= 0, got {steps.tolist()}")
    boxes = rows.copy()
    for column in np.flatnonzero(steps) if len(rows) else ():
        values = rows[:, column]
        if values.min() <= 0:
            raise ValueError(
                f"column {column} must be positive to have a relative resolution, "
                f"got {values.min():g}; give it resolution 0"
            )
        logs = np.log(values)
        boxes[:, column] = np.floor((logs - logs.min()) / np.log1p(steps[column]))
    return boxes
