"""Standard errors and intervals of what is measured. Nothing here guesses a distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from paredown.analysis.pareto import FloatArray


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number from a sample.

    Attributes:
        value: in the unit of the sample.
        stderr: standard error of `value`; None when n == 1.
        n: independent samples behind it.
    """

    value: float
    stderr: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval.

    Attributes:
        value: the statistic on the whole sample.
        low, high: ends of the interval.
        level: share of repetitions of the experiment in which it should hold the true value.
    """

    value: float
    low: float
    high: float
    level: float


def mean_stderr(values: ArrayLike) -> Estimate:
    """Mean of independent values, with stderr = sd / sqrt(n), sd with n - 1 in the denominator.

    Raises:
        ValueError: no values, not one-dimensional, or not finite.
    """
    sample = _sample(values, "values")
    n = len(sample)
    stderr = None if n == 1 else float(sample.std(ddof=1)) / math.sqrt(n)
    return Estimate(value=float(sample.mean()), stderr=stderr, n=n)


def clustered_ratio_stderr(sums: ArrayLike, counts: ArrayLike) -> Estimate:
    """`sum(sums) / sum(counts)` over clusters: the mean per token where windows are independent.

    Tokens of one window depend on each other, so the windows are the sample. With residuals
    `e_i = sums_i - ratio * counts_i`, the delta method gives
    `stderr^2 = n / (n - 1) * sum(e_i^2) / sum(counts)^2`, which for windows of equal length is
    exactly the standard error of the mean of their means.

    Args:
        sums: (n,) total of each cluster, e.g. nats of a window.
        counts: (n,) > 0, elements of each cluster, e.g. predicted tokens of a window.

    Raises:
        ValueError: unequal lengths, no clusters, a count <= 0, or values that are not finite.

    Source: ratio estimator, Cochran 1977, "Sampling techniques", chapter 6 (without the
    finite population correction).
    """
    totals, sizes = _sample(sums, "sums"), _sample(counts, "counts")
    if totals.shape != sizes.shape:
        raise ValueError(f"sums and counts must be equally long, got {len(totals)}, {len(sizes)}")
    if sizes.min() <= 0:
        raise ValueError(f"counts must be > 0, got {sizes.min():g}")
    n = len(totals)
    ratio = float(totals.sum() / sizes.sum())
    if n == 1:
        return Estimate(value=ratio, stderr=None, n=1)
    spread = math.sqrt(n / (n - 1) * float(((totals - ratio * sizes) ** 2).sum()))
    return Estimate(value=ratio, stderr=spread / float(sizes.sum()), n=n)


def median_spread(values: ArrayLike) -> Estimate:
    """Median of independent values, with the bootstrap's standard error of it.

    The bootstrap is not drawn but computed: the chance that the median of n draws with
    replacement is a given value has a closed form. So there is no seed, no normality is assumed,
    and one slow repeat among many weighs less than in `1.2533 sd / sqrt(n)`.

    Raises:
        ValueError: no values, not one-dimensional, or not finite.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife", section 3 (odd n);
    for even n the joint distribution of the two middle draws, derived alike.
    """
    ordered = np.sort(_sample(values, "values"))
    n = len(ordered)
    center = float(np.median(ordered))
    if n == 1:
        return Estimate(value=center, stderr=None, n=1)
    shifted = ordered - center  # keeps the digits where the spread is small
    chances = _middle_chances(n)  # (n, n)
    medians = (shifted[:, None] + shifted[None, :]) / 2
    mean = float((chances * medians).sum())
    variance = float((chances * (medians - mean) ** 2).sum())
    return Estimate(value=center, stderr=math.sqrt(variance), n=n)


def _middle_chances(n: int) -> FloatArray:
    """(n, n): chance that the lower middle of n draws has rank i + 1, the upper one j + 1.

    For odd n the two are the same draw. For even n = 2m, i < j means that m draws fall at or below
    rank i + 1 with at least one on it, and the other m at or above rank j + 1 likewise.
    """
    lower = _order_chances(n, (n + 1) // 2)  # (n,)
    if n % 2:
        return np.diag(lower)
    half = n // 2
    rank = np.arange(1, n + 1)
    log_ways = math.lgamma(n + 1) - 2 * math.lgamma(half + 1)
    log_below = half * np.log(rank / n)  # (n,)
    logs = log_ways + log_below[:, None] + log_below[::-1][None, :]
    apart = np.exp(np.where(rank[:, None] < rank[None, :], logs, -np.inf))
    touching = 1.0 - (1.0 - 1.0 / rank) ** half  # (n,) of the draws below, one lies on the rank
    joint: FloatArray = apart * touching[:, None] * touching[::-1][None, :]
    return joint + np.diag(np.maximum(lower - joint.sum(axis=1), 0.0))


def _order_chances(n: int, k: int) -> FloatArray:
    """(n,): chance that the k-th smallest of n draws from n ranks is each rank."""
    share = np.arange(1, n) / n  # of draws at or below each rank but the last
    hits = np.arange(k, n + 1)
    log_ways = np.array([math.lgamma(n + 1) - math.lgamma(h + 1) - math.lgamma(n - h + 1)
                         for h in hits])  # fmt: skip
    logs = log_ways + hits * np.log(share)[:, None] + (n - hits) * np.log1p(-share)[:, None]
    at_or_below = np.concatenate([[0.0], np.exp(logs).sum(axis=1), [1.0]])
    return np.diff(at_or_below)


def quantile_spread(
    values: ArrayLike, share: float, *, seed: int = 0, n_boot: int = 2000
) -> Estimate:
    """Quantile of independent values (linear between two of them), with its bootstrap's error.

    From few values a quantile near the end is little more than the largest; the error tells.

    Args:
        share: of values below the quantile, between 0 and 1.
        seed: equal seeds give equal errors.
        n_boot: resamples.

    Raises:
        ValueError: no values, not one-dimensional, not finite, or `share` out of range.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    sample = _sample(values, "values")
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share:g}")
    n, value = len(sample), float(np.quantile(sample, share))
    if n == 1:
        return Estimate(value=value, stderr=None, n=1)
    draws = np.random.default_rng(seed).integers(n, size=(n_boot, n))
    replicates = np.quantile(sample[draws], share, axis=1)
    return Estimate(value=value, stderr=float(replicates.std(ddof=1)), n=n)


def paired_bootstrap_ci(
    a: ArrayLike,
    b: ArrayLike,
    *,
    statistic: Callable[[FloatArray, FloatArray], float],
    seed: int,
    n_boot: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of `statistic(a, b)`; pairs are drawn together.

    Args:
        a, b: (n,) each, n >= 2; entry i of both comes from the same window, seed or question.
        statistic: of two equally long samples, e.g. `lambda a, b: float((a - b).mean())`.
        seed: equal seeds give equal intervals.
        n_boot: resamples.
        level: of confidence, between 0 and 1.

    Raises:
        ValueError: unequal lengths, fewer than two pairs, values that are not finite, or
            `n_boot` or `level` out of range.

    Source: Efron, Tibshirani 1993, "An introduction to the bootstrap", chapter 13.
    """
    first, second = _sample(a, "a"), _sample(b, "b")
    if first.shape != second.shape:
        raise ValueError(f"a and b must be equally long, got {len(first)}, {len(second)}")
    if len(first) < 2:
        raise ValueError("a and b must hold at least two pairs, got one")
    if n_boot < 1 or not 0 < level < 1:
        raise ValueError(f"n_boot must be >= 1 and level in (0, 1), got {n_boot}, {level}")
    draws = np.random.default_rng(seed).integers(len(first), size=(n_boot, len(first)))
    replicates = np.array([statistic(first[rows], second[rows]) for rows in draws])
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    value = float(statistic(first, second))
    return Interval(value=value, low=float(low), high=float(high), level=level)


def _sample(values: ArrayLike, name: str) -> FloatArray:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) == 0:
        raise ValueError(f"{name} must have shape (n,) with n >= 1, got {sample.shape}")
    if not np.isfinite(sample).all():
        n_bad = int((~np.isfinite(sample)).sum())
        raise ValueError(f"{name}: {n_bad} of {len(sample)} values are not finite")
    return sample
