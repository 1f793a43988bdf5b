"""The bandit over methods: gain in hypervolume per second."""

from __future__ import annotations

import numpy as np
import pytest

from paredown.analysis.statistics import paired_bootstrap_ci
from paredown.judge.hypervolume import covered
from paredown.methods import registry
from paredown.search.base import Budget
from paredown.search.policies.bandit import Bandit
from paredown.search.policies.random import Uniform
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits
from tests.search.search_fakes import build, failure, play, result, smooth_truth, timed, use_fakes

PAIR: tuple[Objective, ...] = ("quality", "size")
ONE = Budget(episodes_left=1)
BASELINE = result(None, episode=0, perplexity=20.0, size=768e3)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def next_of(*trials: TrialResult) -> tuple[Strategy, str]:
    decision = Bandit(seed=0, objectives=PAIR).propose(
        [BASELINE, *trials], build(methods=("round", "cut")), Limits(), budget=ONE
    )
    assert decision.strategy is not None
    return decision.strategy, decision.reason


def trial(text: str, episode: int, *, perplexity: float, size: float, s: float) -> TrialResult:
    found = result(registry.canonical(text), episode=episode, perplexity=perplexity, size=size)
    return timed(found, s)


def test_the_method_that_gained_most_goes_on_near_its_best_trial() -> None:
    chosen, reason = next_of(
        trial("round", 1, perplexity=22.0, size=3e5, s=10.0),
        trial("cut", 2, perplexity=70.0, size=7e5, s=10.0),
        trial("round(bits=8)", 3, perplexity=20.1, size=4e5, s=10.0),
        trial("cut(ratio=0.5)", 4, perplexity=79.0, size=6e5, s=10.0),
    )
    assert "round" in {step.method for step in chosen.steps}
    assert reason.startswith("round promises most gain per second")
    near = min(build(methods=("round", "cut")).index.distance(chosen, registry.canonical(t))
               for t in ("round", "round(bits=8)"))  # fmt: skip
    assert near == 1


def test_of_equal_gains_the_cheaper_method_wins() -> None:
    # Each covers what the other does not: the same area, mirrored in quality and size.
    for price, wins in ((1.0, "cut"), (1000.0, "round")):
        gains = [
            trial("round", 1, perplexity=22.0, size=4e5, s=30.0),
            trial("cut", 2, perplexity=24.0, size=2e5, s=price),
        ]
        _, reason = next_of(*gains)
        assert reason.startswith(f"{wins} promises")


def test_what_only_fails_is_left_for_what_was_never_tried_much() -> None:
    failed = [
        timed(failure(registry.canonical(f"round(bits={b}, group_size={g})"), episode=n), 10.0)
        for n, (b, g) in enumerate([(4, 32), (4, 16), (8, 32), (8, 16), (2, 32)], start=1)
    ]
    good = trial("cut", 6, perplexity=22.0, size=5e5, s=10.0)
    _, reason = next_of(*failed, good)
    assert reason.startswith("cut promises")


def test_it_covers_more_than_random_with_the_same_trials() -> None:
    space = build(max_steps=3)

    def share(policy: Bandit | Uniform) -> float:
        return covered(play(policy, space, episodes=14), PAIR, Limits())

    ours = [share(Bandit(seed=s, objectives=PAIR)) for s in range(10)]
    theirs = [share(Uniform(seed=s)) for s in range(10)]
    gain = paired_bootstrap_ci(ours, theirs, statistic=lambda a, b: float((a - b).mean()), seed=0)
    best = covered(
        [BASELINE, *(smooth_truth(s, n) for n, s in enumerate(space.strategies, start=1))],
        PAIR, Limits(),
    )  # fmt: skip
    assert gain.low > 0
    assert np.mean(ours) > 0.7 * best
