"""Fronts: hand-worked, against a definition-by-loop, invariants, and what noise may not do."""

from __future__ import annotations

import numpy as np
import pytest

from paredown.analysis.pareto import FloatArray, pareto_mask

NAN, INF = float("nan"), float("inf")


def by_definition(rows: FloatArray) -> list[bool]:
    """Non-dominance, word by word."""
    return [
        not any(
            all(a <= b for a, b in zip(other, row, strict=True))
            and any(a < b for a, b in zip(other, row, strict=True))
            for other in rows
        )
        for row in rows
    ]


def test_hand_worked_front() -> None:
    costs = [[1, 4], [2, 2], [4, 1], [3, 3], [2, 5]]
    assert pareto_mask(costs).tolist() == [True, True, True, False, False]


def test_equal_rows_are_both_kept() -> None:
    assert pareto_mask([[1, 2], [1, 2], [2, 2]]).tolist() == [True, True, False]


def test_one_column_keeps_the_smallest() -> None:
    assert pareto_mask([[3], [1], [2], [1]]).tolist() == [False, True, False, True]


def test_one_row_and_no_row() -> None:
    assert pareto_mask([[5.0, 5.0]]).tolist() == [True]
    assert pareto_mask(np.empty((0, 3)), resolution=[0, 0.1, 0]).tolist() == []


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
@pytest.mark.parametrize("levels", [3, 1000])  # 3: many ties
def test_agrees_with_the_definition(columns: int, levels: int) -> None:
    rows = np.random.default_rng(0).integers(1, levels, size=(60, columns)).astype(float)
    assert pareto_mask(rows).tolist() == by_definition(rows)
    assert pareto_mask(rows, resolution=np.zeros(columns)).tolist() == by_definition(rows)


def test_noise_alone_puts_nothing_on_the_front() -> None:
    # Each row is better than the first in latency by less than 5 %, and worse in size.
    costs = [[100, 10.4], [110, 10.3], [120, 10.2], [130, 10.0]]
    assert pareto_mask(costs).all()
    mask = pareto_mask(costs, resolution=[0, 0.05])
    assert mask.tolist() == [True, False, False, False]


def test_a_real_improvement_stays() -> None:
    costs = [[100, 10.0], [110, 9.0], [95, 10.2]]  # 10 % faster; a little smaller, as fast
    assert pareto_mask(costs, resolution=[0, 0.05]).tolist() == [False, True, True]


def test_hand_worked_boxes() -> None:
    # Resolution 1: boxes [1, 2), [2, 4), [4, 8). Rows in boxes (0, 2), (0, 1), (1, 0), (1, 1).
    costs = [[1.0, 4.0], [1.9, 3.9], [3.9, 1.0], [2.0, 2.0]]
    assert pareto_mask(costs, resolution=[1, 1]).tolist() == [False, True, True, False]


def test_in_one_box_the_values_decide() -> None:
    costs = [[1.00, 1.04], [1.01, 1.02], [1.02, 1.03], [1.0, 1.04]]
    assert pareto_mask(costs, resolution=[0.1, 0.1]).tolist() == [True, True, False, True]


@pytest.fixture(params=range(5))
def measured(request: pytest.FixtureRequest) -> FloatArray:
    return np.random.default_rng(request.param).lognormal(sigma=0.3, size=(80, 3))


RESOLUTION = np.array([0.0, 0.1, 0.3])


def test_every_row_left_out_is_covered_by_the_front(measured: FloatArray) -> None:
    mask = pareto_mask(measured, resolution=RESOLUTION)
    front = measured[mask]
    assert mask.any()
    for row in measured[~mask]:
        within = np.where(
            RESOLUTION > 0, front < row * (1 + RESOLUTION) * (1 + 1e-12), front <= row
        )
        assert within.all(axis=1).any()


def test_units_and_order_do_not_matter(measured: FloatArray) -> None:
    mask = pareto_mask(measured, resolution=RESOLUTION)
    order = np.random.default_rng(1).permutation(len(measured))
    scaled = measured[order] * [3.0, 1e9, 1e-3]
    assert pareto_mask(scaled, resolution=RESOLUTION).tolist() == mask[order].tolist()


def test_front_is_stable_when_what_it_left_out_is_removed_by_exact_dominance(
    measured: FloatArray,
) -> None:
    exact = pareto_mask(measured)
    assert pareto_mask(measured[exact]).all()


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"finite, got .* in row 1"):
        pareto_mask([[1.0, 2.0], [bad, 2.0]])


@pytest.mark.parametrize("shape", [(3,), (3, 0), (2, 2, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        pareto_mask(np.ones(shape))


@pytest.mark.parametrize(
    ("resolution", "message"),
    [([0.1], "shape"), ([0.1, -0.1], ">= 0"), ([0.1, NAN], ">= 0"), ([0.1, INF], ">= 0")],
)
def test_impossible_resolutions_are_refused(resolution: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pareto_mask([[1.0, 2.0]], resolution=resolution)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_relative_resolution_needs_positive_values(value: float) -> None:
    costs = [[1.0, 2.0], [2.0, value]]
    with pytest.raises(ValueError, match="column 1 must be positive"):
        pareto_mask(costs, resolution=[0.1, 0.1])
    assert pareto_mask(costs, resolution=[0.1, 0.0]).all()
