"""Scale of a forecast and its quality: hand-worked, and against scipy's rank correlation."""

from __future__ import annotations

from random import Random

import pytest
from scipy.stats import spearmanr

from paredown.analysis.forecast import ForecastQuality, fit_kappa, forecast_quality, spearman


def test_kappa_is_the_geometric_mean_of_the_ratios() -> None:
    assert fit_kappa([1.0, 2.0, 10.0], [2.0, 4.0, 20.0]) == pytest.approx(2.0)
    assert fit_kappa([1.0, 1.0], [1.0, 4.0]) == pytest.approx(2.0)  # not 2.5
    assert fit_kappa([1.0, 0.0, 1.0], [3.0, 5.0, 0.0]) == pytest.approx(3.0)
    assert fit_kappa([], []) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_ranks_are_those_of_scipy_ties_included(seed: int) -> None:
    rng = Random(seed)
    one = [rng.randrange(6) for _ in range(20)]
    two = [value + rng.randrange(5) for value in one]
    assert spearman(one, two) == pytest.approx(spearmanr(one, two).statistic)


def test_quality_is_worked_out_by_hand() -> None:
    found = forecast_quality([1.1, 0.5, 0.24, 7.0], [1.0, 0.4, 0.3, 0.0])
    assert found.n == 3
    assert found.rank_correlation == pytest.approx(1.0)
    assert found.median_error == pytest.approx(0.2)
    assert forecast_quality([1.0, 2.0], [2.0, 1.0]).rank_correlation is None
    assert forecast_quality([], []) == ForecastQuality(0, None, None)
