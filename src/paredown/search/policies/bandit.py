"""The bandit policy: more of the methods that brought the most per second."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self, final

from paredown.judge.hypervolume import Score, gains, measured, scores
from paredown.search.base import Decision, Policy, View
from paredown.search.cost import spent
from paredown.search.policies.evolutionary import survivors
from paredown.spec.run import OBJECTIVES, Objective
from paredown.spec.strategy import Strategy

DISCOUNT = 0.97
"""Weight of a trial relative to the next one: what gains now matters more than what gained once."""
CURIOSITY = 0.5
"""Weight of how little a method was tried, against its gain."""


@final
@dataclass(frozen=True, kw_only=True)
class Bandit(Policy):
    """First the defaults of the methods; then the method with the highest upper bound on its gain.

    A trial's gain in hypervolume and its seconds are shared evenly by its methods. With the method
    chosen, the strategy is the untried one with it that lies nearest to the best trials.

    Attributes:
        seed: of the run.
        objectives: what to trade off.

    Source: discounted UCB, Garivier, Moulines 2011, "On upper-confidence bound policies for
    switching bandit problems", with gain per second as the reward.
    """

    name: ClassVar[str] = "bandit"
    seed: int
    objectives: tuple[Objective, ...] = OBJECTIVES

    @classmethod
    def create(cls, *, seed: int, objectives: tuple[Objective, ...]) -> Self:
        return cls(seed=seed, objectives=objectives)

    def choose(self, view: View) -> Decision:
        if (first := view.opened_by(self.name, spread=True)) is not None:
            return first
        if not view.left:
            return view.following(reason="all that is listed was tried", policy=self.name)
        bounds = self._bounds(view)
        open_to = {step.method for strategy in view.left for step in strategy.steps}
        method = max((m for m in bounds if m in open_to), key=bounds.__getitem__)
        chosen, why = self._nearest(view, method)
        reason = f"{method} promises most gain per second ({bounds[method]:.2f} of par); {why}"
        return view.decide(chosen, reason=reason, policy=self.name)

    def _bounds(self, view: View) -> dict[str, float]:
        """Upper bound on each method's gain per second, as a multiple of all methods' mean."""
        methods = view.space.first_of_methods()
        gain = dict.fromkeys(methods, 0.0)
        seconds = dict.fromkeys(methods, 0.0)
        count = dict.fromkeys(methods, 0.0)
        for result, brought in zip(
            view.trials, gains(view.history, self.objectives, view.limits), strict=True
        ):
            for name in methods:
                # Every trial ages what is known of all methods, not of its own alone.
                gain[name], seconds[name], count[name] = (
                    DISCOUNT * x for x in (gain[name], seconds[name], count[name])
                )
            names = [s.method for s in result.strategy.steps] if result.strategy else []
            for name in set(names) & methods.keys():
                gain[name] += brought / len(names)
                seconds[name] += spent(result) / len(names)
                count[name] += 1
        for strategy in (p.strategy for p in view.pending):
            for step in strategy.steps if strategy else ():
                if step.method in methods:
                    # Tried, though nothing is known of it yet: side by side, others get their turn.
                    count[step.method] += 1
        return self._upper(view, gain, seconds, count)

    def _upper(
        self,
        view: View,
        gain: dict[str, float],
        seconds: dict[str, float],
        count: dict[str, float],
    ) -> dict[str, float]:
        whole, time, tries = sum(gain.values()), sum(seconds.values()), sum(count.values())
        mean = whole / time if time else 0.0
        bounds = {}
        for name, strategy in view.space.first_of_methods().items():
            usual = view.costs.seconds(strategy)  # one trial at the mean rate is the prior
            rate = (gain[name] + mean * usual) / (seconds[name] + usual)
            relative = rate / mean if mean > 0 else 1.0
            unknown = math.sqrt(math.log1p(tries) / (count[name] + 1.0))
            bounds[name] = relative + CURIOSITY * unknown
        return bounds

    def _nearest(self, view: View, method: str) -> tuple[Strategy, str]:
        """The untried strategy with `method` nearest to the best trials with it, else to the best
        of all; of equally near ones the cheapest."""
        names = measured(view.history, self.objectives)
        known = scores(view.history, names, view.limits) if names else []
        best = [s for s in survivors(known) if s.violation == 0]
        own = [s for s in best if any(step.method == method for step in s.strategy.steps)]
        anchors: list[Score] = (own or best)[:8]
        among = [s for s in view.left if any(step.method == method for step in s.steps)]
        if not anchors:
            return among[0], "first with it in the order of the space"
        index = view.space.index
        rng = Random(view.seed(self.seed, self.name))
        _, _, _, chosen, anchor = min(
            (
                (index.distance(strategy, anchor.strategy), view.costs.seconds(strategy),
                 rng.random(), strategy, anchor)
                for strategy in among
                for anchor in anchors
            ),
            key=lambda found: found[:3],
        )  # fmt: skip
        return chosen, f"nearest to episode {anchor.episode}"
