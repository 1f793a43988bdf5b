"""Allocation of options: against brute force, and what must hold for any instance."""

from __future__ import annotations

from itertools import pairwise, product
from random import Random

import pytest

from paredown.analysis.allocation import Allocation, Priced, best_within, curve, hull, interval
from paredown.errors import ConfigError

Units = list[list[Priced]]


def instance(seed: int, units: int, options: int, *, monotone: bool = True) -> Units:
    """Random units; with `monotone`, costs fall as bytes grow, but not along convex hulls."""
    rng = Random(seed)
    made = []
    for _ in range(units):
        sizes = sorted(rng.sample(range(1, 60), options))
        costs = [rng.expovariate(1.0) for _ in range(options)]
        if monotone:
            costs.sort(reverse=True)
        made.append([Priced(c, 16 * s) for c, s in zip(costs, sizes, strict=True)])
    return made


def brute(units: Units, budget: int) -> float:
    """The least cost within the budget, by trying everything."""
    found = []
    for taken in product(*units):
        if sum(option.nbytes for option in taken) <= budget:
            found.append(sum(option.cost for option in taken))
    return min(found)


def test_a_hand_worked_case() -> None:
    # Bytes 1, 2, 3 and costs 9, 5, 4: a gain of 4, then of 1. Bytes 2, 4 and costs 6, 0: of 3.
    units = [
        [Priced(9.0, 1), Priced(5.0, 2), Priced(4.0, 3)],
        [Priced(6.0, 2), Priced(0.0, 4)],
    ]
    assert interval(units) == (3, 7)
    assert [(a.nbytes, a.cost, a.chosen) for a in curve(units)] == [
        (3, 15.0, (0, 0)),
        (4, 11.0, (1, 0)),
        (6, 5.0, (1, 1)),
        (7, 4.0, (2, 1)),
    ]
    # 5 lies in a gap of the curve: the second unit large and the first small beats both.
    assert best_within(units, 5) == Allocation((0, 1), 9.0, 5)


def test_a_hull_leaves_out_what_lies_above_it() -> None:
    options = [Priced(8.0, 1), Priced(7.0, 2), Priced(2.0, 3), Priced(2.0, 4), Priced(0.0, 5)]
    assert hull(options) == [0, 2, 4]
    assert hull([Priced(1.0, 5), Priced(1.0, 3)]) == [1]  # as good and smaller


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("monotone", [True, False])
def test_the_solver_finds_what_trying_everything_finds(seed: int, monotone: bool) -> None:
    units = instance(seed, units=5, options=4, monotone=monotone)
    least, most = interval(units)
    for share in (0.0, 0.2, 0.5, 0.8, 1.0):
        budget = round(least + share * (most - least))
        found = best_within(units, budget)
        assert found.nbytes <= budget
        assert found.cost == pytest.approx(brute(units, budget), rel=2e-4)


@pytest.mark.parametrize("seed", range(6))
def test_every_stop_of_the_curve_is_the_best_of_its_size(seed: int) -> None:
    units = instance(seed, units=5, options=4)
    stops = curve(units)
    assert stops[0].nbytes == interval(units)[0]
    for one, two in pairwise(stops):
        assert two.nbytes > one.nbytes
        assert two.cost < one.cost
    for stop in stops:
        assert stop.cost == pytest.approx(brute(units, stop.nbytes))


def test_many_units_fill_the_budget_and_are_the_same_again() -> None:
    units = instance(3, units=300, options=7)
    least, most = interval(units)
    budget = least + (most - least) // 3
    found = best_within(units, budget)
    assert best_within(units, budget) == found
    assert 0.99 * budget <= found.nbytes <= budget
    below = [stop for stop in curve(units) if stop.nbytes <= budget][-1]
    assert found.cost <= below.cost


def test_sizes_of_a_large_model_are_kept_to_the_byte() -> None:
    rng = Random(0)
    units = []
    for _ in range(100):
        numel = 4096 * 4096
        options = [(4.0**-b * rng.expovariate(1.0), numel * b // 8 + 12345) for b in (3, 4, 8)]
        units.append([Priced(c, n) for c, n in options])
    least, most = interval(units)
    for budget in (least, least + 1, (least + most) // 2 + 7, most):
        assert best_within(units, budget).nbytes <= budget


def test_less_than_the_smallest_is_refused_with_the_interval() -> None:
    units = [[Priced(1.0, 10), Priced(0.0, 30)], [Priced(1.0, 20)]]
    with pytest.raises(ConfigError, match="29 bytes: the smallest plan takes 30, the largest 50"):
        best_within(units, 29)


def test_free_units_take_their_smallest_option() -> None:
    units = [[Priced(0.0, 10), Priced(0.0, 20)], [Priced(0.0, 5)]]
    assert best_within(units, 100).nbytes == 15
    assert [stop.nbytes for stop in curve(units)] == [15]
