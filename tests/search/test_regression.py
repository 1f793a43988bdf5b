"""Forecasts of what untried strategies will measure."""

from __future__ import annotations

import numpy as np
import pytest

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


def test_features_tell_strategies_apart_and_know_the_ratio() -> None:
    space = build()
    rows = rows_of(space, space.strategies)
    assert len(np.unique(rows, axis=0)) == len(space.strategies)
    half = registry.canonical("round(bits=4)")
    (row,) = features_of(space).rows([half])
    assert row[-2] / row[-1] == pytest.approx(2 / np.log2(space.ratio(half)))
    assert (row == rows_of(space, [half])[0]).all()
