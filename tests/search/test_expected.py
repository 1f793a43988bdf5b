"""The policy that takes what is expected to gain most per second."""

from __future__ import annotations

import numpy as np
import pytest

from paredown.judge.hypervolume import covered
from paredown.search.base import Budget
from paredown.search.outlook import allowed
from paredown.search.policies.random import Uniform
from paredown.search.policies.surrogate import Expected
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits
from tests.search.search_fakes import build, play, smooth_truth, timed, use_fakes

PAIR: tuple[Objective, ...] = ("quality", "size")


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def test_it_covers_more_than_random_with_as_many_trials() -> None:
    space = build(max_steps=2)
    shares = {
        name: [
            covered(play(kind.create(seed=seed, objectives=PAIR), space, episodes=14), PAIR,
                    Limits())
            for seed in range(6)
        ]
        for name, kind in (("surrogate", Expected), ("random", Uniform))
    }  # fmt: skip
    assert np.mean(shares["surrogate"]) > 1.1 * np.mean(shares["random"])


def test_of_equal_gains_the_cheaper_one_is_tried() -> None:
    def truth(strategy: Strategy, episode: int) -> TrialResult:
        dear = any(step.method == "solve" for step in strategy.steps)
        return timed(smooth_truth(strategy, episode), 500.0 if dear else 5.0)

    policy = Expected(seed=0, objectives=PAIR)
    tried = play(policy, build(max_steps=1), episodes=20, truth=truth)[1:]
    used = [r.strategy.steps[0].method for r in tried if r.strategy is not None]
    assert used.count("solve") < used.count("round")


def test_imagined_outcomes_that_break_a_limit_count_for_nothing() -> None:
    logs = np.log([[1.04, 0.5, 1 / 1.6], [1.06, 0.5, 1 / 1.6], [1.04, 0.5, 1 / 1.4]])
    names: tuple[Objective, ...] = ("quality", "size", "latency")
    assert allowed(logs, names, Limits()).tolist() == [1, 1, 1]
    assert allowed(logs, names, Limits(max_accuracy_loss=5.0)).tolist() == [1, 0, 1]
    assert allowed(logs, names, Limits(min_speedup=1.5)).tolist() == [1, 1, 0]
    assert allowed(logs[:, :2], names[:2], Limits(min_speedup=1.5)).tolist() == [1, 1, 1]


def test_it_says_what_it_expects() -> None:
    policy = Expected(seed=0, objectives=PAIR)
    history = play(policy, build(), episodes=8)
    decision = policy.propose(history, build(), Limits(), budget=Budget(episodes_left=9))
    assert decision.strategy is not None
    assert decision.expected is not None
    came = smooth_truth(decision.strategy, 9).value("perplexity")
    assert decision.expected["perplexity"] == pytest.approx(came, rel=0.7)
    assert "expected to add most per second" in decision.reason
