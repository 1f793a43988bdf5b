"""Standard errors: hand-worked, closed forms, simulation, edges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from paredown.analysis.pareto import FloatArray
from paredown.analysis.statistics import (
    clustered_ratio_stderr,
    mean_stderr,
    median_spread,
    paired_bootstrap_ci,
    quantile_spread,
)


def test_mean_hand_worked() -> None:
    found = mean_stderr([1, 2, 3, 6])  # mean 3, squares 4 + 1 + 0 + 9 = 14, sd^2 = 14/3
    assert (found.value, found.n) == (3.0, 4)
    assert found.stderr == pytest.approx(math.sqrt(14 / 3 / 4))


def test_one_value_has_no_standard_error() -> None:
    assert mean_stderr([2.0]).stderr is None
    assert median_spread([2.0]).stderr is None
    assert clustered_ratio_stderr([6.0], [3]).stderr is None
    assert clustered_ratio_stderr([6.0], [3]).value == 2.0


def test_ratio_hand_worked() -> None:
    # ratio 6/4; residuals 2 - 1.5, 4 - 4.5: squares 0.25 + 0.25; times 2/1, root, over 4.
    found = clustered_ratio_stderr([2, 4], [1, 3])
    assert found.value == 1.5
    assert found.stderr == pytest.approx(1.0 / 4)
    assert found.n == 2


def test_ratio_of_equal_clusters_is_the_mean_of_their_means() -> None:
    sums = np.random.default_rng(0).random(20) * 512
    ratio, mean = clustered_ratio_stderr(sums, np.full(20, 512)), mean_stderr(sums / 512)
    assert ratio.value == pytest.approx(mean.value, rel=1e-12)
    assert ratio.stderr == pytest.approx(mean.stderr, rel=1e-12)


def test_ratio_error_is_what_repetition_shows() -> None:
    rng = np.random.default_rng(0)

    def experiment() -> tuple[float, float]:
        counts = rng.integers(50, 500, size=60)
        levels = rng.normal(3.0, 0.4, size=60)  # each window has its own difficulty
        sums = [
            rng.normal(level, 1.0, size=c).sum() for level, c in zip(levels, counts, strict=True)
        ]
        found = clustered_ratio_stderr(sums, counts)
        return found.value, found.stderr or 0.0

    values, errors = np.array([experiment() for _ in range(300)]).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.12)


def test_median_hand_worked() -> None:
    # Draws of three from {0, 1, 3}: 27, of which 7 have median 0, 13 median 1, 7 median 3.
    mean = (13 * 1 + 7 * 3) / 27
    variance = (7 * mean**2 + 13 * (1 - mean) ** 2 + 7 * (3 - mean) ** 2) / 27
    found = median_spread([3, 0, 1])
    assert (found.value, found.n) == (1.0, 3)
    assert found.stderr == pytest.approx(math.sqrt(variance), rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_median_error_is_that_of_all_resamples(n: int) -> None:
    values = np.random.default_rng(n).exponential(size=n)
    medians = [np.median(draw) for draw in itertools.product(values, repeat=n)]
    assert median_spread(values).stderr == pytest.approx(float(np.std(medians)), rel=1e-9)


@pytest.mark.parametrize("n", [40, 41])
def test_median_error_near_the_normal_theory(n: int) -> None:
    rng = np.random.default_rng(0)
    errors = [median_spread(rng.normal(size=n)).stderr or 0.0 for _ in range(200)]
    assert np.mean(errors) == pytest.approx(1.2533 / math.sqrt(n), rel=0.15)


@pytest.mark.parametrize("n", [2001, 2000])
def test_median_of_many_values_does_not_overflow(n: int) -> None:
    found = median_spread(np.random.default_rng(0).normal(size=n))
    assert found.stderr == pytest.approx(1.2533 / math.sqrt(n), rel=0.4)


def test_median_error_is_less_sensitive_to_an_outlier() -> None:
    quiet = [10.0, 10.1, 10.2, 10.3, 10.4, 10.5, 10.6, 10.7, 10.8]
    noisy = [*quiet[:-1], 30.0]
    assert median_spread(noisy).value == median_spread(quiet).value
    assert (median_spread(noisy).stderr or 9) < 0.3 * 1.2533 * (mean_stderr(noisy).stderr or 0)


def test_median_error_scales_and_ignores_offsets() -> None:
    values = np.random.default_rng(0).random(7)
    once, moved = median_spread(values), median_spread(values * 3 + 1e6)
    assert moved.stderr == pytest.approx(3 * (once.stderr or 0), rel=1e-6)
    assert median_spread([4.0, 4.0, 4.0]).stderr == 0.0


def difference(a: FloatArray, b: FloatArray) -> float:
    return float((a - b).mean())


def test_paired_interval_of_a_shift_is_the_shift() -> None:
    a = np.random.default_rng(0).random(10)
    found = paired_bootstrap_ci(a + 0.5, a, statistic=difference, seed=0)  # pairs kept together
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.level == 0.95


def test_pairs_are_drawn_together_whatever_the_statistic() -> None:
    a = np.random.default_rng(0).random(10)
    found = paired_bootstrap_ci(
        a + 0.5, a, statistic=lambda x, y: float(np.abs(x - y).max()), seed=0
    )
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))


def test_paired_interval_near_the_normal_theory() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=200)
    b = a + rng.normal(1.0, 0.5, size=200)
    found = paired_bootstrap_ci(b, a, statistic=difference, seed=1, n_boot=4000, level=0.9)
    half = 1.645 * (mean_stderr(b - a).stderr or 0)
    assert found.value == pytest.approx(float((b - a).mean()))
    assert found.low == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.1 * half)


def test_paired_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(0.3, 1.0, 40), rng.normal(0.0, 1.0, 40)) for _ in range(200)]
    found = [
        paired_bootstrap_ci(a, b, statistic=difference, seed=i, n_boot=300, level=0.9)
        for i, (a, b) in enumerate(pairs)
    ]
    assert 0.82 < np.mean([f.low <= 0.3 <= f.high for f in found]) < 0.95


def test_paired_interval_depends_on_the_seed_alone() -> None:
    a, b = np.random.default_rng(0).random((2, 20))
    once, again, other = (
        paired_bootstrap_ci(a, b, statistic=difference, seed=seed, n_boot=50) for seed in (3, 3, 4)
    )
    assert once == again
    assert once != other


@pytest.mark.parametrize("bad", [[], [[1.0]], [1.0, float("nan")], [float("inf")]])
def test_bad_samples_are_refused(bad: list[float]) -> None:
    for call in (mean_stderr, median_spread):
        with pytest.raises(ValueError, match="values"):
            call(bad)


def test_bad_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        clustered_ratio_stderr([1, 2], [1])
    with pytest.raises(ValueError, match="counts must be > 0, got 0"):
        clustered_ratio_stderr([1, 2], [1, 0])
    with pytest.raises(ValueError, match="equally long"):
        paired_bootstrap_ci([1, 2], [1], statistic=difference, seed=0)
    with pytest.raises(ValueError, match="two pairs"):
        paired_bootstrap_ci([1], [1], statistic=difference, seed=0)


@pytest.mark.parametrize(("n_boot", "level"), [(0, 0.9), (10, 0.0), (10, 1.0)])
def test_bad_bootstrap_settings_are_refused(n_boot: int, level: float) -> None:
    with pytest.raises(ValueError, match="n_boot"):
        paired_bootstrap_ci([1, 2], [1, 2], statistic=difference, seed=0,
                            n_boot=n_boot, level=level)  # fmt: skip


def test_quantile_hand_worked() -> None:
    found = quantile_spread([5.0, 1.0, 2.0, 4.0, 3.0], 0.9)
    assert found.value == pytest.approx(4.6)
    assert found.n == 5
    assert quantile_spread([2.0], 0.9).stderr is None
    assert quantile_spread([3.0, 3.0, 3.0], 0.9).stderr == 0.0


def test_quantile_error_is_that_of_repeating_the_experiment() -> None:
    # Of n values of the uniform distribution the quantile p varies by sqrt(p (1 - p) / n).
    samples = np.random.default_rng(1).uniform(size=(40, 400))
    errors = [quantile_spread(sample, 0.9, n_boot=200).stderr for sample in samples]
    assert np.mean([e for e in errors if e]) == pytest.approx(math.sqrt(0.09 / 400), rel=0.15)
    assert quantile_spread(samples[0], 0.9) == quantile_spread(samples[0], 0.9)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0])
def test_bad_shares_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        quantile_spread([1.0, 2.0], share)
