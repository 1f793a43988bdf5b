"""The knee of a front: where giving up a little of one objective stops gaining much of another."""

from __future__ import annotations

from numpy.typing import ArrayLike

from paredown.analysis.pareto import require_costs


def knee(costs: ArrayLike) -> int:
    """Index of the row farthest below the plane through the front's corners.

    Each column is scaled to 0 at the front's best and 1 at its worst value; the plane is
    `sum of scaled costs = 1`. With two columns that is the straight line through the two ends of
    the front. A column in which all rows are equal does not count. The first of equally good
    rows is taken; a front of two rows with two columns has no knee, and row 0 is returned.

    Args:
        costs: (n, k), n >= 1, finite, to be minimised, non-dominated (a dominated row stretches
            the scale). Take logarithms first of what spans orders of magnitude.

    Raises:
        ValueError: no rows, a wrong shape, or values that are not finite.

    Source: Das 1999, "On characterizing the knee of the Pareto curve based on normal-boundary
    intersection", Structural Optimization 18: 107-115.
    """
    rows = require_costs(costs)
    if len(rows) == 0:
        raise ValueError("costs must have at least one row, got none")
    low = rows.min(axis=0)
    span = rows.max(axis=0) - low
    varies = span > 0
    scaled = (rows - low)[:, varies] / span[varies]
    return int(scaled.sum(axis=1).argmin())
