"""Hypervolume: how much of the space below a reference point a set of results covers."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from paredown.analysis.pareto import FloatArray, require_costs


def hypervolume(costs: ArrayLike, reference: ArrayLike) -> float:
    """Exact volume that the rows of `costs` dominate, bounded by `reference`.

    Every column is to be minimised. A row that is not better than the reference in every column
    adds nothing. Rows may be dominated, repeated, and in any order. Cost grows as n^(k-1): meant
    for fronts (100 rows in 4 columns: under a second).

    Args:
        costs: (n, k), finite.
        reference: (k,), finite: the worst acceptable cost of each column.

    Returns:
        The volume, in the product of the columns' units; 0.0 for no rows.

    Raises:
        ValueError: wrong shapes, or values that are not finite.

    Source: slicing objectives, While, Hingston, Barone, Huband 2006, "A faster algorithm for
    calculating hypervolume" (algorithm HSO).
    """
    rows = require_costs(costs)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != rows.shape[1:]:
        raise ValueError(f"reference must have shape {rows.shape[1:]}, got {corner.shape}")
    if not np.isfinite(corner).all():
        raise ValueError(f"reference must be finite, got {corner.tolist()}")
    gains = corner - rows
    return _volume(gains[(gains > 0).all(axis=1)])


def _volume(gains: FloatArray) -> float:
    """Volume of the union of the boxes from the origin to each row of `gains`, (n, k) > 0."""
    if len(gains) == 0:
        return 0.0
    if gains.shape[1] == 1:
        return float(gains.max())
    gains = gains[np.argsort(-gains[:, -1])]
    if gains.shape[1] == 2:  # staircase: each row adds where it is wider than all higher ones
        widths = np.maximum.accumulate(gains[:, 0])
        return float(np.diff(widths, prepend=0.0) @ gains[:, 1])
    heights = -np.diff(gains[:, -1], append=0.0)  # of the slices, from the top
    return sum(
        float(height) * _volume(gains[:count, :-1])
        for count, height in enumerate(heights, start=1)
        if height > 0
    )
