"""Neighbours in the space of strategies."""

from __future__ import annotations

from itertools import product

import pytest

from paredown.methods import registry
from paredown.methods.base import Kind
from paredown.search.index import ALONE, SWAPPED, genome
from tests.search.search_fakes import build, use_fakes


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ("round", "round", 0),
        ("round(bits=4)", "round(bits=8)", 1),
        ("round(bits=2)", "round(bits=8)", 2),  # 2, 4, 8 in order of size
        ("round(bits=8, group_size=16)", "round(bits=4, group_size=32)", 2),
        ("round", "solve(bits=8)", SWAPPED),
        ("cut", "cut > round", ALONE),
        ("cut", "round", 2 * ALONE),
        ("cut(ratio=0.5) > round", "trim > round(bits=8)", SWAPPED + 1),
        ("round(steps=20)", "round(steps=30)", 0),  # not searched
    ],
)
def test_distances(one: str, other: str, distance: int) -> None:
    index = build().index
    first, second = registry.canonical(one), registry.canonical(other)
    assert index.distance(first, second) == index.distance(second, first) == distance


def test_distance_is_a_metric() -> None:
    space = build()
    index = space.index
    some = space.strategies[::9]
    for a, b, c in product(some, repeat=3):
        assert index.distance(a, c) <= index.distance(a, b) + index.distance(b, c)


def test_the_nearest_has_the_wanted_methods_and_is_allowed() -> None:
    space = build()
    index = space.index
    wanted = genome(registry.canonical("round(bits=2)"))
    assert index.nearest(wanted, space.__contains__) == registry.canonical("round(bits=2)")
    without = registry.canonical("round(bits=2)")
    assert index.nearest(wanted, lambda s: s != without) == registry.canonical("round")
    assert index.nearest(wanted, lambda s: False) is None
    assert index.nearest({}, space.__contains__) is None


def test_methods_are_listed_by_kind_in_the_order_of_the_space() -> None:
    assert build().index.methods == {
        Kind.QUANTIZATION: ["round", "solve"],
        Kind.PRUNING: ["cut", "trim"],
        Kind.TUNING: ["mend"],
    }
