"""Sharing the budget by what each arm has brought, and not trusting any of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import pytest

from paredown.errors import MethodError
from paredown.search.base import Budget, Decision, Policy, View, end
from paredown.search.lead import STRIKES
from paredown.search.policies.evolutionary import Evolutionary
from paredown.search.policies.portfolio import (
    MINIMUM,
    PRIOR_TRIALS,
    PROMISE,
    Arm,
    Portfolio,
    _rates,
)
from paredown.search.policies.random import Uniform
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits
from tests.search.search_fakes import build, play, result, smooth_truth, timed, use_fakes

CAP = 0.3
PAIR: tuple[Objective, ...] = ("quality", "size")
_NO_LIMITS, _ONE = Limits(), Budget(episodes_left=1)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


@final
@dataclass(frozen=True)
class Helpless(Policy):
    """An arm that raises, repeats what was tried, or wants to stop."""

    name: ClassVar[str] = "helpless"
    how: str

    def choose(self, view: View) -> Decision:
        if self.how == "raises":
            raise MethodError("no connection")
        if self.how == "ends":
            return end("enough", policy=self.name)
        return view.decide(view.started[0], reason="again", policy=self.name)


@final
@dataclass(frozen=True)
class Last(Policy):
    """Takes the last strategy of the space, which is seldom a good one."""

    name: ClassVar[str] = "last"

    def choose(self, view: View) -> Decision:
        return view.decide(view.left[-1], reason="the last", policy=self.name)


def portfolio(*arms: Arm) -> Portfolio:
    return Portfolio(objectives=PAIR, arms=arms)


def arms_of(results: tuple[TrialResult, ...]) -> list[str]:
    names = (r.proposed_by or "" for r in results)
    return [name.partition(":")[2] for name in names if ":" in name]


@pytest.mark.parametrize("how", ["raises", "ends", "repeats"])
@pytest.mark.parametrize("cap", [CAP, None])
def test_an_arm_without_an_answer_is_asked_three_times_and_the_run_goes_on(
    how: str, cap: float | None
) -> None:
    policy = portfolio(Arm(policy=Uniform(seed=0)), Arm(policy=Helpless(how), cap=cap))
    results = play(policy, build(), episodes=25)
    assert len(results) == 26
    assert set(arms_of(results)) == {"random"}
    assert policy.strikes["helpless"] == STRIKES


def test_the_reason_tells_who_could_not_answer() -> None:
    policy = portfolio(Arm(policy=Helpless("raises")), Arm(policy=Uniform(seed=0)))
    history = play(Uniform(seed=0), build(), episodes=6)
    view = View(history=history, space=build(), limits=_NO_LIMITS, budget=_ONE)
    decision = policy.choose(view)
    assert decision.policy == "portfolio:random"
    assert "helpless: could not answer (no connection)" in decision.reason


@pytest.mark.parametrize("cap", [0.1, CAP, 0.6])
def test_a_capped_arm_gets_at_most_its_share_of_the_trials_even_if_it_is_the_best(
    cap: float,
) -> None:
    policy = portfolio(
        Arm(policy=Last()), Arm(policy=Evolutionary(seed=0, objectives=PAIR), cap=cap)
    )
    tried = arms_of(play(policy, build(max_steps=3), episodes=40))
    for n in range(1, len(tried) + 1):
        assert tried[:n].count("evolutionary") <= cap * n
    assert "evolutionary" in tried
    if cap > CAP:
        assert tried.count("evolutionary") > CAP * len(tried)


def _history(*turns: tuple[str, float, float]) -> list[TrialResult]:
    """Trials of (arm, size, seconds), each as good as the base."""
    strategies = build().strategies
    history = [result(None, episode=0, perplexity=20.0, size=768e3)]
    for n, (arm, size, seconds) in enumerate(turns, start=1):
        found = timed(result(strategies[n], episode=n, perplexity=20.0, size=size), seconds)
        history.append(found.model_copy(update={"proposed_by": f"portfolio:{arm}"}))
    return history


def test_a_capped_arm_is_due_no_more_than_its_share_of_the_cost_whatever_it_brought() -> None:
    policy = portfolio(Arm(policy=Last()), Arm(policy=Uniform(seed=0), cap=CAP))
    history = _history(("random", 3e5, 10.0), ("last", 7e5, 10.0), ("random", 2e5, 10.0))
    shares = policy.shares(View(history=history, space=build(), limits=_NO_LIMITS, budget=_ONE))
    assert shares == pytest.approx({"random": CAP, "last": 1 - CAP})


def test_a_capped_arm_that_has_used_up_its_share_of_the_cost_is_not_asked_at_all() -> None:
    """One dear trial of ten: far below its share of the trials, and above that of the cost."""
    policy = portfolio(
        Arm(policy=Helpless("raises")), Arm(policy=Uniform(seed=0), cap=CAP, promise=PROMISE)
    )
    cheap = [("helpless", 7e5 + n, 1.0) for n in range(9)]

    def asked(seconds: float) -> str | None:
        history = _history(("random", 2e5, seconds), *cheap)
        view = View(history=history, space=build(), limits=_NO_LIMITS, budget=_ONE)
        return policy.choose(view).policy

    assert asked(2.0) == "portfolio:random"  # 2 of 11 seconds
    assert asked(6.0) == "portfolio"  # 6 of 15: only the order of the space is left


def test_what_brings_more_gets_more_and_all_shares_add_up() -> None:
    policy = portfolio(Arm(policy=Uniform(seed=0)), Arm(policy=Last()))
    strategies = build().strategies
    history = [result(None, episode=0, perplexity=20.0, size=768e3)]
    for n in range(1, 9):  # random finds smaller and smaller models, last nothing
        good = n % 2
        found = result(strategies[n], episode=n, perplexity=21.0 if good else 200.0, size=7e5 / n)
        by = "portfolio:random" if good else "portfolio:last"
        history.append(timed(found, 10.0).model_copy(update={"proposed_by": by}))
    shares = policy.shares(View(history=history, space=build(), limits=_NO_LIMITS, budget=_ONE))
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["random"] > 0.75
    assert shares["last"] >= MINIMUM


def test_without_results_all_arms_are_due_the_same() -> None:
    policy = portfolio(Arm(policy=Uniform(seed=0)), Arm(policy=Last()))
    view = View(
        history=[result(None, episode=0, perplexity=20.0, size=768e3)],
        space=build(), limits=_NO_LIMITS, budget=_ONE,
    )  # fmt: skip
    assert policy.shares(view) == pytest.approx({"random": 0.5, "last": 0.5})


def test_an_arm_that_keeps_its_promise_keeps_its_lead() -> None:
    promises = np.array([10.0, 1.0, 1.0])
    alone = np.array([[0.5, 100.0, 10.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    # One arm has brought 0.005 a second, as much as was promised: the others are expected to bring
    # a tenth of that.
    assert _rates(alone, promises) == pytest.approx([0.005, 0.0005, 0.0005])


def test_credit_goes_from_what_was_promised_to_what_was_seen() -> None:
    promises = np.array([10.0, 1.0])
    brought = np.array([[0.0, 100.0, 10.0], [0.3, 100.0, 10.0]])
    # Had both kept their promise, 0.3 would be 1100 seconds' worth of the rate that is shared.
    shared, prior = 0.3 / 1100, PRIOR_TRIALS * 10
    assert _rates(brought, promises) == pytest.approx(
        [10 * shared * prior / (100 + prior), (0.3 + shared * prior) / (100 + prior)]
    )
    assert _rates(np.zeros((2, 3)), promises) == pytest.approx(promises)
    assert _rates(brought * [0, 1, 1], promises) == pytest.approx(promises)  # nobody brought any


def test_an_arm_that_brings_nothing_costs_little() -> None:
    def truth(strategy: Strategy, episode: int) -> TrialResult:
        return timed(smooth_truth(strategy, episode), 10.0)

    used = []
    for seed in range(6):
        policy = portfolio(
            Arm(policy=Evolutionary(seed=seed, objectives=PAIR)), Arm(policy=_Worst())
        )
        tried = arms_of(play(policy, build(max_steps=3), episodes=40, truth=truth))
        used.append(tried.count("worst") / len(tried))
    assert np.mean(used) < 0.35


@pytest.mark.slow
def test_an_arm_that_breaks_a_promise_is_given_up() -> None:
    def truth(strategy: Strategy, episode: int) -> TrialResult:
        return timed(smooth_truth(strategy, episode), 10.0)

    used, later = [], []
    for seed in range(6):
        policy = portfolio(
            Arm(policy=_Worst(), promise=PROMISE),
            Arm(policy=Evolutionary(seed=seed, objectives=PAIR)),
        )
        tried = arms_of(play(policy, build(max_steps=3), episodes=60, truth=truth))
        used.append(tried.count("worst") / len(tried))
        later.append(tried[30:].count("worst") / len(tried[30:]))
    assert np.mean(used) < 0.5
    assert np.mean(later) < 0.35


@final
@dataclass(frozen=True)
class _Worst(Policy):
    """What is known to be bad in the artificial truth: cuts most, rounds most coarsely."""

    name: ClassVar[str] = "worst"

    def choose(self, view: View) -> Decision:
        found = max(view.left, key=lambda s: smooth_truth(s, 1).value("perplexity") or 0.0)
        return view.decide(found, reason="the worst", policy=self.name)
