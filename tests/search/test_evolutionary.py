"""NSGA-II on strategies: selection, and children that differ in one place."""

from __future__ import annotations

import numpy as np
import pytest

from paredown.analysis.statistics import paired_bootstrap_ci
from paredown.judge.hypervolume import Score, covered
from paredown.methods import registry
from paredown.methods.base import Kind
from paredown.search.base import Budget
from paredown.search.enumerated import Enumerated
from paredown.search.index import genome
from paredown.search.policies.evolutionary import Evolutionary, crowding, survivors
from paredown.search.policies.random import Uniform
from paredown.spec.run import Objective
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits
from tests.search.search_fakes import build, play, result, smooth_truth, use_fakes

PAIR: tuple[Objective, ...] = ("quality", "size")


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def score(episode: int, *costs: float, violation: float = 0.0) -> Score:
    return Score(
        strategy=registry.canonical("round"),
        costs=costs,
        violations={"limit": violation},
        episode=episode,
    )


def test_survivors_are_ordered_by_rank_then_crowding_then_violation() -> None:
    trials = [
        score(1, 0.0, 0.0, violation=0.5),
        score(2, 5.0, 5.0),  # third rank
        score(3, 0.0, 0.0, violation=0.1),
        score(4, 1.0, 4.0),  # first rank, an end
        score(5, 1.1, 3.9),  # first rank, crowded
        score(6, 2.5, 2.5),  # first rank, lonely
        score(7, 4.0, 1.0),  # first rank, the other end
        score(8, 4.5, 4.5),  # second rank
    ]
    assert [s.episode for s in survivors(trials)] == [4, 7, 6, 5, 8, 2, 3, 1]
    assert [s.episode for s in survivors(trials, count=2)] == [4, 7]
    assert survivors([]) == []


def test_crowding_hand_worked() -> None:
    rows = np.array([[0.0, 4.0], [1.0, 2.0], [4.0, 0.0]])
    assert crowding(rows).tolist() == [np.inf, 4 / 4 + 4 / 4, np.inf]
    same = np.array([[1.0, 1.0]] * 3)
    assert crowding(same).tolist() == [np.inf, 0.0, np.inf]


def _child(space: Enumerated, parent: Strategy, seed: int) -> Strategy:
    history = [
        result(None, episode=0, perplexity=20.0, size=768e3),
        result(parent, episode=1, perplexity=21.0, size=3e5),
    ]
    decision = Evolutionary(seed=seed).propose(
        history, space, Limits(), budget=Budget(episodes_left=1)
    )
    assert decision.strategy is not None
    assert "child of episode 1" in decision.reason
    return decision.strategy


def test_a_child_differs_from_its_parent_in_one_place() -> None:
    space = build()
    parent = registry.canonical("cut > round")
    children = [_child(space, parent, seed) for seed in range(60)]
    index = space.index
    assert all(0 < index.distance(parent, child) <= 3 for child in children)
    kinds = {frozenset(genome(child)) for child in children}
    both = frozenset({Kind.PRUNING, Kind.QUANTIZATION})
    assert kinds == {both, frozenset({Kind.PRUNING}), frozenset({Kind.QUANTIZATION})}
    methods = {step.method for child in children for step in child.steps}
    assert methods == {"cut", "round", "trim", "solve"}  # swapped within the kind
    shifted = registry.canonical("cut > round(bits=8)")
    assert shifted in children


def test_a_step_can_be_added() -> None:
    children = {str(_child(build(), registry.canonical("round"), seed)) for seed in range(60)}
    assert any(child.startswith("cut(") and "round" in child for child in children)
    assert any(child.startswith("mend(") and "round" in child for child in children)


def test_it_covers_more_than_random_with_the_same_trials() -> None:
    space = build(max_steps=3)

    def share(policy: Evolutionary | Uniform) -> float:
        results = play(policy, space, episodes=20)
        return covered(results, PAIR, Limits())

    ours = [share(Evolutionary(seed=s, objectives=PAIR)) for s in range(12)]
    theirs = [share(Uniform(seed=s)) for s in range(12)]
    gain = paired_bootstrap_ci(ours, theirs, statistic=lambda a, b: float((a - b).mean()), seed=0)
    baseline = result(None, episode=0, perplexity=20.0, size=768e3)
    best = covered(
        [baseline, *(smooth_truth(s, n) for n, s in enumerate(space.strategies, start=1))],
        PAIR, Limits(),
    )  # fmt: skip
    assert gain.low > 0
    assert np.mean(ours) > 0.85 * best
