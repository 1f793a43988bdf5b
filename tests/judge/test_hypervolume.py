"""Costs, broken limits and gains, against cases worked by hand and a second implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paredown.analysis.hypervolume import hypervolume
from paredown.judge.hypervolume import FAILED, covered, gains, measured, scores
from paredown.judge.limits import unmet, violations
from paredown.judge.quantities import QUANTITIES
from paredown.methods import registry
from paredown.spec.run import OBJECTIVES, EvaluateConfig, Objective
from paredown.spec.target import Limits
from tests.search.search_fakes import build, failure, result, use_fakes

BASELINE = result(None, episode=0, perplexity=20.0, size=768e3)
PAIR: tuple[Objective, ...] = ("quality", "size")


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def test_costs_are_logarithms_over_the_baseline() -> None:
    small, other, broken = build().strategies[:3]
    history = [
        BASELINE,
        result(small, episode=1, perplexity=40.0, size=192e3),
        result(other, episode=2, perplexity=10.0, size=384e3),
        failure(broken, episode=3),
    ]
    found = scores(history, PAIR, Limits())
    assert [score.costs for score in found] == [
        pytest.approx(np.log([2, 1 / 4])),
        pytest.approx(np.log([1 / 2, 1 / 2])),
        pytest.approx(np.log([2, 1])),  # the worst seen of each, the baseline's included
    ]
    assert [score.violation for score in found] == [0.0, 0.0, FAILED]
    assert [score.episode for score in found] == [1, 2, 3]
    without = [score.costs for score in scores(history[1:], PAIR, Limits(target_ratio=9))]
    assert without[1] == pytest.approx(np.log([1 / 4, 2]))


def test_an_objective_counts_only_if_every_trial_has_measured_it() -> None:
    one = result(registry.canonical("round"), episode=1, perplexity=21.0, size=4e5)
    assert measured([BASELINE, one], OBJECTIVES) == OBJECTIVES
    fewer = tuple(m for m in one.measurements if m.name != "peak_memory")
    bare = one.model_copy(update={"measurements": fewer})
    assert measured([BASELINE, bare], OBJECTIVES) == ("quality", "size", "latency")
    assert measured([], OBJECTIVES) == ()


def test_a_gain_is_the_share_of_the_box_that_only_this_trial_covers() -> None:
    # On the axis of size, 1/8 is 0 and 1.1 is 1; on that of quality 1 is 0 and 4 is 1.
    first, second, third = build().strategies[:3]
    half = 20.0 * 2.0  # ln 2 / ln 4 = 0.5
    quarter = 20.0 * math.sqrt(2)  # 0.25
    length = math.log(1.1 * 8)
    history = [
        result(None, episode=0, perplexity=20.0, size=768e3),
        result(first, episode=1, perplexity=half, size=768e3 / 8),  # (0.5, 0)
        result(second, episode=2, perplexity=half, size=768e3 / 2),  # behind the first
        result(third, episode=3, perplexity=quarter, size=768e3 / 8),  # (0.25, 0)
    ]
    base = math.log(1.1) / length  # the baseline covers all qualities at its size
    found = gains(history, PAIR, Limits())
    assert found == pytest.approx([0.5 * (1 - base), 0.0, 0.25 * (1 - base)])
    assert covered(history, PAIR, Limits()) == pytest.approx(0.75 * (1 - base))


def test_gains_add_up_to_the_hypervolume() -> None:
    rng = np.random.default_rng(0)
    strategies = build().strategies
    history = [BASELINE] + [
        result(strategies[n], episode=n + 1, perplexity=20 * 4 ** rng.uniform(-0.1, 1.1),
               size=768e3 * rng.uniform(0.1, 1.2), ms=10 * rng.uniform(0.2, 2.2))
        for n in range(30)
    ]  # fmt: skip
    names: tuple[Objective, ...] = ("quality", "size", "latency")
    rows = []
    for r in history:
        row = []
        for name in names:
            axis = QUANTITIES[name]
            value = (r.value(axis.measurement) or 0) / (BASELINE.value(axis.measurement) or 1)
            cost = math.log(value)
            if axis.resolution:
                step = math.log(1 + axis.resolution)
                cost = round(cost / step) * step
            row.append((cost - math.log(axis.best)) / math.log(axis.worst / axis.best))
        rows.append(row)
    whole = hypervolume(rows, [1.0] * 3) - hypervolume(rows[:1], [1.0] * 3)
    found = gains(history, names, Limits())
    assert sum(found) == pytest.approx(whole)
    assert min(found) == 0.0
    assert sum(g > 0 for g in found) > 5


def test_what_fails_breaks_a_limit_or_differs_by_noise_gains_nothing() -> None:
    first, second, third, fourth = build().strategies[:4]
    history = [
        BASELINE,
        result(first, episode=1, perplexity=30.0, size=1e5),
        result(second, episode=2, perplexity=21.0, size=4e5),
        failure(third, episode=3),
        result(fourth, episode=4, perplexity=21.0, size=4e5, ms=9.9),  # 1 % faster
    ]
    found = gains(history, ("quality", "size", "latency"), Limits(max_accuracy_loss=10))
    assert [g > 0 for g in found] == [False, True, False, False]


def test_violations_hand_worked() -> None:
    limits = Limits(max_memory_gb=0.0002, max_accuracy_loss=5, min_speedup=2, target_ratio=8)
    seen = result(registry.canonical("round"), episode=1, perplexity=22.0, size=192e3, ms=8.0)
    assert violations(seen, BASELINE, limits) == pytest.approx(
        {
            "max_memory_gb": 292 / 200 - 1,
            "max_accuracy_loss": 0.05,
            "min_speedup": 1 - 1.25 / 2,
            "target_ratio": 0.5,
        }
    )
    assert violations(seen, BASELINE, Limits()) == {}
    bare = seen.model_copy(update={"measurements": ()})
    assert violations(bare, BASELINE, limits) == {}


def test_violations_agree_with_the_limits_in_words() -> None:
    rng = np.random.default_rng(0)
    limits = Limits(max_memory_gb=3e-4, max_accuracy_loss=20, min_speedup=1.2, target_ratio=3)
    for _ in range(100):
        seen = result(registry.canonical("round"), episode=1, perplexity=rng.uniform(18, 30),
                      size=rng.uniform(1e5, 5e5), ms=rng.uniform(5, 12))  # fmt: skip
        broken = [v for v in violations(seen, BASELINE, limits).values() if v > 0]
        assert len(broken) == len(unmet(seen, BASELINE, limits))


def test_candidates_are_screened_where_the_axis_of_quality_ends() -> None:
    assert EvaluateConfig().screen == QUANTITIES["quality"].worst


def test_what_is_beyond_two_ends_of_the_box_gains_nothing_either() -> None:
    """Both sides of its box are negative, so their product would not be."""
    (first,) = build().strategies[:1]
    history = [BASELINE, result(first, episode=1, perplexity=100.0, size=768e3 * 1.5)]
    assert gains(history, PAIR, Limits()) == [0.0]
