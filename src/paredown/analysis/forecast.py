"""How a forecast is scaled by what was measured, and how good it was. No torch.

A proxy that is right up to a factor, such as a second-order change of the loss, is brought to the
measured scale by a few verified anchors: log measured = log kappa + log proxy + noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


def fit_kappa(proxies: Sequence[float], measured: Sequence[float]) -> float:
    """The factor from proxy to measurement: the geometric mean of their ratios.

    Least squares in logarithms; pairs that are not positive say nothing and are left out.

    Args:
        proxies, measured: of the same anchors, in the same order.

    Returns:
        1.0 where no pair is left.
    """
    ratios = [math.log(m / p) for p, m in zip(proxies, measured, strict=True) if p > 0 and m > 0]
    return math.exp(math.fsum(ratios) / len(ratios)) if ratios else 1.0


@dataclass(frozen=True, slots=True)
class ForecastQuality:
    """How forecasts and measurements of the same things agree.

    Attributes:
        n: how many there are.
        rank_correlation: Spearman's, -1 to 1; None for fewer than three, or where all are equal.
        median_error: median of |forecast / measured - 1|; None where nothing was measured.
    """

    n: int
    rank_correlation: float | None
    median_error: float | None


def forecast_quality(forecast: Sequence[float], measured: Sequence[float]) -> ForecastQuality:
    """Compare forecasts with what was measured later, pair by pair; measurements are positive."""
    pairs = [(f, m) for f, m in zip(forecast, measured, strict=True) if m > 0]
    errors = [abs(f / m - 1.0) for f, m in pairs]
    return ForecastQuality(
        n=len(pairs),
        rank_correlation=spearman([f for f, _ in pairs], [m for _, m in pairs]),
        median_error=float(np.median(errors)) if errors else None,
    )


_Values = NDArray[np.float64]


def spearman(one: ArrayLike, two: ArrayLike) -> float | None:
    """Rank correlation, ties with their mean rank; None for fewer than three or constant values."""
    first, second = _ranks(np.asarray(one, dtype=float)), _ranks(np.asarray(two, dtype=float))
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: _Values) -> _Values:
    """Mean rank of each value among those equal to it."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: _Values = ends - (counts - 1) / 2.0
    return means[place]
