"""The portfolio policy: several policies share the budget by what each has brought."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, final

import numpy as np

from paredown.analysis.pareto import FloatArray
from paredown.judge.hypervolume import gains
from paredown.search.base import Decision, Policy, View
from paredown.search.cost import spent
from paredown.search.lead import STRIKES, ask
from paredown.search.policies.bandit import Bandit
from paredown.search.policies.bayesian import Bayesian
from paredown.search.policies.evolutionary import Evolutionary
from paredown.search.policies.frontier import Frontier
from paredown.search.policies.grid import GridSearch
from paredown.search.policies.random import Uniform
from paredown.search.policies.surrogate import Expected
from paredown.spec.run import OBJECTIVES, Objective

MINIMUM = 0.02
"""Share of the cost that every arm gets, whatever it has brought, but for capped arms."""
DISCOUNT = 0.95
"""Weight of a trial relative to the next one, whoever proposed them."""
PRIOR_TRIALS = 2.0
"""How many trials every arm is credited with beforehand."""
PROMISE = 10.0
"""What is promised of the surrogate, which alone reckons with the sizes known beforehand, over what
is promised of the others: until one of them has shown that it brings more, they get the minimum."""
PLAN_PROMISE = 10.0
"""What is promised of plans, which at equal bytes lose about two thirds of what the best uniform
model does, for a fifth of a trial once layers were measured: as much as of the surrogate."""
ADVISOR_PROMISE = 5.0
"""What is promised of an LLM: about a fifth of the cost to begin with, so that it can show what it
is worth."""
SHARPNESS = 2.0
"""Shares are proportional to credit to this power: 0 would be equal shares."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A policy in a portfolio.

    Attributes:
        policy: it chooses from the same view as all others, so it learns from all trials.
        cap: largest share of the cost, and of the trials, that it gets, and then without a
            protected minimum: for arms that are not trusted. None: it has no cap.
        promise: how many times what a plain arm brings it is credited with beforehand.
    """

    policy: Policy
    cap: float | None = None
    promise: float = 1.0

    @property
    def name(self) -> str:
        return self.policy.name


@final
@dataclass(frozen=True, kw_only=True)
class Portfolio(Policy):
    """The arms in turns that follow from their shares of the cost.

    The credit of an arm is the hypervolume that its trials added per second, recent ones counting
    more, drawn towards what it promised while it has had few. Shares are proportional to credit
    squared, with a protected minimum. Turns are those of weighted fair queueing, so an arm that
    brings nothing costs the minimum and at most one trial more. What an arm
    proposes is checked: a failure to answer, or a strategy that is not untried and feasible, is a
    strike, and the next arm is asked.

    Attributes:
        objectives: what to trade off.
        arms: policies of different names.
        strikes: unusable proposals in a row by arm, in this process only: an arm that cannot
            answer now may do so when the run is resumed.

    Source: probability matching on credit, as in Thierens 2005, "An adaptive pursuit strategy for
    allocating operator probabilities", with shares of cost in place of chances; turns as in
    Demers, Keshav, Shenker 1989, "Analysis and simulation of a fair queueing algorithm".
    """

    name: ClassVar[str] = "portfolio"
    objectives: tuple[Objective, ...] = OBJECTIVES
    arms: tuple[Arm, ...]
    strikes: Counter[str] = field(default_factory=Counter, compare=False, repr=False)

    @classmethod
    def create(
        cls, *, seed: int, objectives: tuple[Objective, ...], extra_arms: tuple[Arm, ...] = ()
    ) -> Self:
        classical: tuple[Policy, ...] = (
            Bayesian(seed=seed, objectives=objectives),
            Evolutionary(seed=seed, objectives=objectives),
            Bandit(seed=seed, objectives=objectives),
            Uniform(seed=seed),
            GridSearch(),
        )
        best = Arm(policy=Expected(seed=seed, objectives=objectives), promise=PROMISE)
        plans = Arm(policy=Frontier(seed=seed, objectives=objectives), promise=PLAN_PROMISE)
        arms = [best, plans, *(Arm(policy=policy) for policy in classical)]
        return cls(objectives=objectives, arms=(*arms, *extra_arms))

    def choose(self, view: View) -> Decision:
        if (first := view.opened_by(self.name, spread=True)) is not None:
            return first
        refused = ""
        opened = replace(view, opened=True)
        for arm, why in self._ready(opened)._in_turn(view):
            decision = ask(arm.policy, opened)
            if isinstance(decision, Decision):
                name = f"{self.name}:{arm.name}"
                reason = f"{decision.reason} [{why}{refused}]"
                self.strikes[arm.name] = 0  # only failures in a row count
                return replace(decision, policy=name, reason=reason)
            self.strikes[arm.name] += 1
            refused += f"; {arm.name}: {decision}"
        reason = f"no arm had an answer: next in the order of the space{refused}"
        return view.following(reason=reason, policy=self.name)

    def _ready(self, view: View) -> Self:
        """With those arms alone that have something to decide from."""
        return replace(self, arms=tuple(arm for arm in self.arms if arm.policy.is_ready(view)))

    def shares(self, view: View) -> dict[str, float]:
        """The share of the cost that each arm is due, by its name; they add up to 1."""
        credit = self._credit(view)
        free = 1.0 - MINIMUM * sum(arm.cap is None for arm in self.arms)
        strength = {name: value**SHARPNESS for name, value in credit.items()}
        whole = sum(strength.values())
        due = {
            arm.name: free * (strength[arm.name] / whole if whole else 1 / len(self.arms))
            + (MINIMUM if arm.cap is None else 0.0)
            for arm in self.arms
        }
        capped = {a.name: min(due[a.name], a.cap) for a in self.arms if a.cap is not None}
        # What capped arms may not have goes to the others, in proportion.
        left = 1.0 - sum(capped.values())
        others = sum(due[a.name] for a in self.arms if a.cap is None)
        return {n: capped[n] if n in capped else d * left / others for n, d in due.items()}

    def _in_turn(self, view: View) -> list[tuple[Arm, str]]:
        """Arms that may be asked, the one whose turn it is first, each with its account.

        It is the turn of the arm that would have had its due soonest, one more trial counted: who
        is due half of the cost is asked twice before anyone who is due a quarter, from the start.
        """
        due = self.shares(view)
        used, count = self._used(view)
        whole, trials = sum(used.values()), sum(count.values())
        usual = whole / trials if trials else 1.0
        missing = {n: share - (used[n] / whole if whole else 0.0) for n, share in due.items()}
        asked = [
            arm
            # Virtual finishing times of weighted fair queueing, a usual trial being the packet.
            for arm in sorted(self.arms, key=lambda a: (used[a.name] + usual) / due[a.name])
            if self.strikes[arm.name] < STRIKES
            and not (
                arm.cap is not None
                and (count[arm.name] + 1 > arm.cap * (trials + 1) or missing[arm.name] <= 0)
            )
        ]
        return [(arm, self._account(arm, due, used, whole)) for arm in asked]

    def _account(
        self, arm: Arm, due: dict[str, float], used: dict[str, float], whole: float
    ) -> str:
        share = used[arm.name] / whole if whole else 0.0
        return f"{arm.name}: due {due[arm.name]:.0%} of the cost, used {share:.0%}"

    def _used(self, view: View) -> tuple[dict[str, float], dict[str, int]]:
        """Seconds and trials of each arm, trials being run included."""
        seconds = {arm.name: 0.0 for arm in self.arms}
        count = {arm.name: 0 for arm in self.arms}
        finished = [(r.proposed_by, spent(r)) for r in view.trials]
        running = [(p.policy, view.costs.seconds(p.strategy)) for p in view.pending if p.strategy]
        for by, cost in (*finished, *running):
            name = self._arm_of(by)
            if name is not None:
                seconds[name] += cost
                count[name] += 1
        return seconds, count

    def _credit(self, view: View) -> dict[str, float]:
        """Discounted hypervolume per second of each arm's trials, drawn towards its promise.

        Trials of nobody, such as the opening's, count as those of an arm without a promise.
        """
        brought = {name: np.zeros(3) for name in (*(arm.name for arm in self.arms), None)}
        for result, gain in zip(
            view.trials, gains(view.history, self.objectives, view.limits), strict=True
        ):
            brought = {name: DISCOUNT * found for name, found in brought.items()}
            brought[self._arm_of(result.proposed_by)] += (gain, spent(result), 1.0)
        promises = np.array([*(arm.promise for arm in self.arms), 1.0])
        rates = _rates(np.stack(list(brought.values())), promises)
        # Not strict: the last rate is that of nobody's trials.
        return {arm.name: float(rate) for arm, rate in zip(self.arms, rates, strict=False)}

    def _arm_of(self, policy: str | None) -> str | None:
        """Which arm proposed a trial; None for the opening, a warm start, or another policy."""
        prefix, _, name = (policy or "").partition(":")
        known = prefix == self.name and any(arm.name == name for arm in self.arms)
        return name if known else None


def _rates(brought: FloatArray, promises: FloatArray) -> FloatArray:
    """(arms,) gain per second: what each arm brought, and `PRIOR_TRIALS` trials at its promise.

    A promise is a multiple of a rate that all arms share, and that rate is the one at which all
    trials together would have brought what they did, had every arm kept its promise. (As in
    Morris 1983, "Parametric empirical Bayes inference", with gains for counts.)

    Args:
        brought: (arms, 3) gain, seconds and number of trials.
        promises: (arms,) multiples.
    """
    gain, seconds, trials = brought.sum(axis=0)
    if not gain or not seconds:
        return promises
    promised = promises * gain / (promises @ brought[:, 1])
    prior = PRIOR_TRIALS * seconds / trials
    rates: FloatArray = (brought[:, 0] + prior * promised) / (brought[:, 1] + prior)
    return rates
