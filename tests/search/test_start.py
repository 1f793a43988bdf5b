"""Warm start."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paredown.errors import StrategyError
from paredown.methods import registry
from paredown.search.base import Budget, Remembered
from paredown.search.policies import registry as policies
from paredown.search.policies.grid import GridSearch
from paredown.search.start import WarmStart
from paredown.spec.result import Measurement, TrialResult
from paredown.spec.run import OBJECTIVES
from paredown.spec.strategy import Step, Strategy
from paredown.spec.target import Limits
from paredown.spec.units import Unit
from tests.search.search_fakes import build, play, proposed, result, use_fakes


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def start(*texts: str) -> WarmStart:
    return WarmStart(strategies=tuple(map(registry.canonical, texts)), then=GridSearch())


def test_given_strategies_come_first_and_none_comes_twice() -> None:
    space = build(methods=("round", "cut"))
    tried = proposed(play(start("cut(ratio=0.5)", "round(bits=2)"), space, episodes=1000))
    assert tried[:2] == ["cut(ratio=0.5)", "round(bits=2)"]
    assert sorted(tried) == sorted(registry.label(s) for s in space.strategies)


def test_what_cannot_run_here_is_passed_over_and_said() -> None:
    space = build(methods=("round",))
    results = play(start("cut", "round(bits=8)"), space, episodes=2)
    assert proposed(results) == ["round(bits=8)", "round"]
    assert [r.proposed_by for r in results[1:]] == ["start", "grid"]


def test_a_run_cut_within_the_start_goes_on_with_it() -> None:
    space, policy = build(), start("cut(ratio=0.5)", "round(bits=2)", "mend(rank=32)")
    whole = play(policy, space, episodes=6)
    assert proposed(play(policy, space, episodes=4, history=whole[:3])) == proposed(whole)


def test_a_start_whose_loss_is_known_of_the_text_alone_says_so() -> None:
    kept = Measurement(
        name="quality", value=1.0, unit=Unit.FRACTION, n=1, stderr=None, lower_is_better=False,
        source="derived", how="the base itself on gsm8k",
    )  # fmt: skip
    base = result(None, episode=0, perplexity=20.0, size=768e3)
    scored = base.model_copy(update={"measurements": (*base.measurements, kept)})
    policy, budget = start("cut"), Budget(episodes_left=3)

    def reason(known: WarmStart, baseline: TrialResult, limits: Limits) -> str:
        return known.propose([baseline], build(), limits, budget=budget).reason

    limits = Limits(max_accuracy_loss=10)
    assert "known of the text alone" in reason(policy, scored, limits)
    assert "text" not in reason(policy, base, limits)
    assert "text" not in reason(policy, scored, Limits())
    told = Remembered(strategy=policy.strategies[0], over={"quality": 1.1}, kept=0.97)
    assert "text" not in reason(replace(policy, remembered=(told,)), scored, limits)


def test_strategies_are_made_canonical_and_checked() -> None:
    given = registry.canonical("cut(ratio=0.5)")
    policy = policies.create("grid", seed=0, objectives=OBJECTIVES, start=(given,))
    assert proposed(play(policy, build(), episodes=1)) == ["cut(ratio=0.5)"]
    wrong = Strategy(steps=(Step(method="cutt", params={}),))
    with pytest.raises(StrategyError, match="cutt"):
        policies.create("grid", seed=0, objectives=OBJECTIVES, start=(wrong,))
