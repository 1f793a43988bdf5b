"""Hypervolume: closed forms, Monte Carlo, an independent implementation, invariants."""

from __future__ import annotations

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume

from paredown.analysis.hypervolume import hypervolume


def test_hand_worked_two_columns() -> None:
    # Boxes to (4, 4): 3x1 + 2x2 + 1x3, less overlaps: cells left of the staircase = 6.
    assert hypervolume([[1, 3], [2, 2], [3, 1]], [4, 4]) == 6.0


def test_hand_worked_three_columns() -> None:
    # Two boxes of 2x1x1 and 1x2x1 sharing the unit cube.
    assert hypervolume([[0, 1, 1], [1, 0, 1]], [2, 2, 2]) == 3.0


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_one_row_is_a_box(k: int) -> None:
    assert hypervolume([np.arange(k)], np.full(k, 10)) == float(np.prod(10 - np.arange(k)))


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_inclusion_and_exclusion_of_two_boxes(k: int) -> None:
    a, b = np.random.default_rng(k).random((2, k))
    union = np.prod(1 - a) + np.prod(1 - b) - np.prod(1 - np.maximum(a, b))
    assert hypervolume([a, b], np.ones(k)) == pytest.approx(union, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_agrees_with_an_independent_implementation(n: int, k: int) -> None:
    costs = np.random.default_rng(n).random((n, k))
    theirs = compute_hypervolume(costs, np.ones(k) * 1.1)
    assert hypervolume(costs, np.ones(k) * 1.1) == pytest.approx(theirs, rel=1e-10)


def test_agrees_with_an_independent_implementation_on_ties() -> None:
    costs = np.random.default_rng(0).integers(0, 4, size=(30, 4)).astype(float)
    assert hypervolume(costs, [5] * 4) == pytest.approx(compute_hypervolume(costs, np.full(4, 5.0)))


@pytest.mark.parametrize("k", [2, 3, 4])
def test_agrees_with_monte_carlo(k: int) -> None:
    rng = np.random.default_rng(k)
    costs = rng.random((10, k))
    points = rng.random((100_000, k))
    share = (points[:, None] >= costs[None]).all(axis=-1).any(axis=-1).mean()
    assert hypervolume(costs, np.ones(k)) == pytest.approx(share, abs=0.008)  # 5 sigma


def test_dominated_repeated_and_reordered_rows_change_nothing() -> None:
    costs = np.random.default_rng(3).random((12, 3))
    volume = hypervolume(costs, np.ones(3))
    more = np.concatenate([costs[::-1], costs[:4], costs[:4] + 0.01])
    assert hypervolume(more, np.ones(3)) == pytest.approx(volume, rel=1e-12)


def test_scaling_a_column_scales_the_volume() -> None:
    costs = np.random.default_rng(3).random((12, 3))
    scale = np.array([2.0, 1e6, 0.1])
    expected = hypervolume(costs, np.ones(3)) * scale.prod()
    assert hypervolume(costs * scale, scale) == pytest.approx(expected, rel=1e-12)


def test_rows_beyond_the_reference_add_nothing() -> None:
    assert hypervolume([[1, 1], [0, 3], [2, 0]], [2, 2]) == 1.0
    assert hypervolume([[3, 3]], [2, 2]) == 0.0
    assert hypervolume([[2, 0]], [2, 2]) == 0.0


def test_no_rows_cover_nothing() -> None:
    assert hypervolume(np.empty((0, 2)), [1, 1]) == 0.0


@pytest.mark.parametrize(
    ("costs", "reference", "message"),
    [
        ([[1.0, 2.0]], [1.0], "reference must have shape"),
        ([[1.0, 2.0]], [1.0, float("inf")], "reference must be finite"),
        ([[1.0, float("nan")]], [1.0, 1.0], "costs must be finite"),
        ([1.0, 2.0], [1.0, 1.0], "costs must have shape"),
    ],
)
def test_bad_input_is_refused(costs: object, reference: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hypervolume(costs, reference)  # type: ignore[arg-type]
