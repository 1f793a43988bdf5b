"""Knees: hand-worked, closed form, invariants, edges."""

from __future__ import annotations

import numpy as np
import pytest

from paredown.analysis.knee import knee


def test_hand_worked_knee() -> None:
    # The line from (0, 10) to (10, 0); distances below it are 0, 7, 6, 0 (times a constant).
    assert knee([[0, 10], [1, 2], [3, 1], [10, 0]]) == 1


def test_the_knee_of_a_hyperbola_is_its_symmetric_point() -> None:
    x = np.linspace(0.1, 10, 991)  # x * y = 1, from (0.1, 10) to (10, 0.1)
    assert x[knee(np.stack([x, 1 / x], axis=1))] == pytest.approx(1.0)


def test_three_columns() -> None:
    assert knee([[0.0, 1, 1], [1.0, 0, 1], [1.0, 1, 0], [0.3, 0.3, 0.3]]) == 3


def test_a_front_that_bulges_outwards_has_its_knee_at_an_end() -> None:
    assert knee([[0.0, 1.0], [0.9, 0.9], [1.0, 0.0]]) == 0


def test_units_and_offsets_do_not_matter() -> None:
    costs = np.array([[0, 10], [1, 2], [3, 1], [10, 0]], dtype=float)
    assert knee(costs * [1e9, 1e-3] + [5, -7]) == knee(costs)


def test_a_column_without_differences_does_not_count() -> None:
    assert knee([[7, 0, 10], [7, 1, 2], [7, 3, 1], [7, 10, 0]]) == 1


def test_one_and_two_rows() -> None:
    assert knee([[3, 4]]) == 0
    assert knee([[0, 1], [1, 0]]) == 0
    assert knee([[2, 2], [2, 2]]) == 0


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        knee(np.empty((0, 2)))
    with pytest.raises(ValueError, match="finite"):
        knee([[1.0, float("nan")]])
