"""Forecasts of what untried strategies will measure."""

from __future__ import annotations

import numpy as np
import pytest

from paredown.analysis.pareto import FloatArray
from paredown.methods import registry
from paredown.search.regression import features_of, forecast, rows_of
from tests.search.search_fakes import build, use_fakes


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def test_before_any_trial_all_is_like_the_base_with_a_large_error() -> None:
    new = np.array([[1.0, 0.0], [1.0, 1.0]])
    found = forecast(np.zeros((0, 2)), np.zeros(0), new)
    assert found.mean.tolist() == [0.0, 0.0]
    assert (found.error > 0.1).all()


def test_what_was_seen_is_known_and_what_is_near_is_known_better_than_what_is_far() -> None:
    seen = np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    new = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 3.0, 3.0]])
    found = forecast(seen, np.array([0.2, 0.8]), new)
    assert found.mean[0] == pytest.approx(0.8, abs=0.05)
    assert found.error[0] < found.error[1] < found.error[2]


def test_effects_that_add_up_are_found() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.random((40, 6)) < 0.5).astype(float)
    effects = np.array([0.1, 0.5, -0.2, 0.3, 0.0, 0.8])
    found = forecast(rows[:30], rows[:30] @ effects, rows[30:])
    assert np.abs(found.mean - rows[30:] @ effects).max() < 0.1


def test_the_mean_is_that_of_the_textbook_for_a_linear_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("paredown.search.regression.LINEAR", (1.0,))
    monkeypatch.setattr("paredown.search.regression.NOISE", (0.1,))
    rng = np.random.default_rng(1)
    rows, values, new = rng.random((9, 3)), rng.random(9), rng.random((4, 3))
    ridge = np.linalg.solve(rows.T @ rows + 0.1 * np.eye(3), rows.T @ values)
    assert forecast(rows, values, new).mean == pytest.approx(new @ ridge)


def test_the_error_is_that_of_the_textbook_for_a_linear_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bayesian linear regression, worked in the weights instead of the kernel."""
    monkeypatch.setattr("paredown.search.regression.LINEAR", (1.0,))
    monkeypatch.setattr("paredown.search.regression.NOISE", (0.1,))
    rng = np.random.default_rng(1)
    rows, values, new = rng.random((9, 3)), rng.random(9), rng.random((4, 3))
    spread = np.linalg.inv(rows.T @ rows / 0.1 + np.eye(3))  # of the weights, times the scale
    mean = spread @ rows.T @ values / 0.1
    left = values @ (values - rows @ mean) / 0.1
    scale = (left + 2.0 * 0.5**2) / (9 + 1 + 2)  # trials, the base, and two of the prior
    expected = np.sqrt(scale * ((new @ spread) * new).sum(axis=1))
    assert forecast(rows, values, new).error == pytest.approx(expected)


def _effects(rng: np.random.Generator, count: int) -> tuple[FloatArray, FloatArray]:
    rows = (rng.random((count, 6)) < 0.5).astype(float)
    return rows, rows @ np.array([0.1, 0.5, -0.2, 0.3, 0.0, 0.8])


def test_what_held_on_another_model_is_expected_here_as_far_as_the_models_are_alike() -> None:
    rng = np.random.default_rng(0)
    (seen, values), (new, truth) = _effects(rng, 3), _effects(rng, 20)
    there = _effects(rng, 40)

    def error(there: tuple[FloatArray, FloatArray] | None) -> float:
        found = forecast(seen, values, new, elsewhere=there)
        return float(np.abs(found.mean - truth).mean())

    alone = error(None)
    assert error((there[0], 1.1 * there[1])) < 0.5 * alone
    assert error((there[0], -there[1])) < 1.5 * alone  # where all is the other way round


def test_before_any_trial_what_is_remembered_is_expected() -> None:
    rng = np.random.default_rng(0)
    new, truth = _effects(rng, 20)
    found = forecast(np.zeros((0, 6)), np.zeros(0), new, elsewhere=_effects(rng, 40))
    assert np.corrcoef(found.mean, truth)[0, 1] > 0.95


def test_a_model_that_has_nothing_in_common_leaves_the_forecast_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("LINEAR", 0.5), ("REACH", 1.0), ("NOISE", 0.03), ("ALIKE", 0.0)):
        monkeypatch.setattr(f"paredown.search.regression.{name}", (value,))
    rng = np.random.default_rng(0)
    seen, values = _effects(rng, 5)
    new, _ = _effects(rng, 20)
    alone = forecast(seen, values, new)
    beside = forecast(seen, values, new, elsewhere=_effects(rng, 10))
    assert beside.mean == pytest.approx(alone.mean)
    assert beside.error / beside.error[0] == pytest.approx(alone.error / alone.error[0])


def test_two_models_are_one_where_they_are_wholly_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paredown.search.regression.ALIKE", (1.0,))
    rng = np.random.default_rng(0)
    (rows, values), (new, _) = _effects(rng, 12), _effects(rng, 20)
    halves = forecast(rows[:6], values[:6], new, elsewhere=(rows[6:], values[6:]))
    whole = forecast(rows, values, new)
    assert halves.mean == pytest.approx(whole.mean)
    assert halves.error == pytest.approx(whole.error)


def test_bits_count_by_the_power_of_the_rounding_error() -> None:
    """So 6 bits, seen nowhere, lie between 5 and 8; as a name they would be like no other.
    A step of half the size makes a quarter of the error.
    """
    features = features_of(build())
    assert not [column for column in features.columns if column[1:2] == ("bits",)]
    place = len(features.columns)
    found = {
        text: features.rows([registry.canonical(text)])[0, place]
        for text in ("round(bits=8)", "round(bits=4)", "solve(bits=4)", "round(bits=2)", "cut")
    }
    assert found["round(bits=4)"] == found["solve(bits=4)"] == 4**4 * found["round(bits=8)"] > 0
    assert found["round(bits=2)"] == 8 * found["round(bits=4)"]  # the most that counts
    assert found["cut"] == 0


def test_features_tell_strategies_apart_and_know_the_ratio() -> None:
    space = build()
    rows = rows_of(space, space.strategies)
    assert len(np.unique(rows, axis=0)) == len(space.strategies)
    half = registry.canonical("round(bits=4)")
    (row,) = features_of(space).rows([half])
    assert row[-2] / row[-1] == pytest.approx(2 / np.log2(space.ratio(half)))
    assert (row == rows_of(space, [half])[0]).all()
