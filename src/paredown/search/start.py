"""Warm start: what is known from elsewhere is tried first, and taken into account later."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, final

from paredown.judge.limits import bounds_named_quality
from paredown.judge.quantities import QUANTITIES, finished_baseline
from paredown.search.base import Decision, Policy, Remembered, View
from paredown.search.outlook import Outlook
from paredown.spec.run import OBJECTIVES, Objective
from paredown.spec.strategy import Strategy

CAREFUL = 4
"""Trials before one is risked that is expected to break a limit: a short run cannot afford it."""


@final
@dataclass(frozen=True, kw_only=True)
class WarmStart(Policy):
    """Proposes the given strategies in their order, then lets another policy go on, which is told
    what is remembered.

    Those that the space does not have (they cannot run on this model, or miss a limit) are passed
    over, and the reason says so.

    Attributes:
        strategies: canonical.
        then: the policy that goes on, with these trials in its history.
        remembered: effects on other models.
    """

    name: ClassVar[str] = "start"
    strategies: tuple[Strategy, ...]
    then: Policy
    remembered: tuple[Remembered, ...] = ()

    def choose(self, view: View) -> Decision:
        view = replace(view, remembered=self.remembered)
        first = next(filter(view.may, self.strategies), None)
        if first is None:
            return self.then.choose(view)
        place = self.strategies.index(first) + 1
        reason = f"warm start ({place} of {len(self.strategies)})"
        if bounds_named_quality(finished_baseline(view.history), view.limits):
            kept = {memory.strategy.hash for memory in self.remembered if memory.kept is not None}
            if first.hash not in kept:
                reason += "; its loss is known of the text alone, not of the named quality"
        outside = sum(s not in view.space for s in self.strategies)
        if outside:
            reason += f"; {outside} given are not in the space"
        return view.decide(first, reason=reason, policy=self.name)


@final
@dataclass(frozen=True, kw_only=True)
class Informed(Policy):
    """Begins with anchors from measured knowledge, then lets another policy go on, which forecasts
    with it and, as long as anything better is left, is not shown what is forecast to be hopeless.

    Attributes:
        anchors: strategies to try first, canonical, each of the space.
        then: the policy that goes on.
        known: effects on models that were measured before; what a run remembers itself of a
            strategy outranks them.
        objectives: what to trade off.
    """

    name: ClassVar[str] = "knowledge"
    anchors: tuple[Strategy, ...]
    then: Policy
    known: tuple[Remembered, ...]
    objectives: tuple[Objective, ...] = OBJECTIVES

    def choose(self, view: View) -> Decision:
        own = {memory.strategy.hash for memory in view.remembered}
        others = (memory for memory in self.known if memory.strategy.hash not in own)
        view = hopeful(replace(view, remembered=(*view.remembered, *others)), self.objectives)
        # `view.may` passes over anchors that are by now forecast to be hopeless.
        first = next(filter(view.may, self.anchors), None)
        if first is None:
            decision = self.then.choose(view)
        else:
            place = self.anchors.index(first) + 1
            reason = f"known to work on other models ({place} of {len(self.anchors)} to begin with)"
            decision = view.decide(first, reason=reason, policy=self.name)
        caveat = "" if view.outlook is None else view.outlook.caveat
        return replace(decision, reason=f"{decision.reason}; {caveat}") if caveat else decision


def hopeful(view: View, objectives: tuple[Objective, ...]) -> View:
    """The view without what is forecast to break a limit, or to lie beyond the end of an axis.

    In the first trials, what is expected to break a limit is left out; later, what would do so even
    if it came out better by a standard error: then a gain is worth a miss.

    Nothing is left out where nothing is known to forecast from, and where nothing better is left:
    what is hopeless in a forecast may still be all there is. The forecast goes along with the view.
    """
    outlook = Outlook.of(view, objectives)
    if outlook is None or not outlook.informed:
        return view
    means = {name: found.mean for name, found in outlook.forecasts.items()}
    luck = float(len(outlook.seen) >= CAREFUL)
    lucky = {name: found.mean - luck * found.error for name, found in outlook.forecasts.items()}
    named = outlook.named
    hopeless = outlook.allowed(lucky, named and named.mean - luck * named.error) == 0
    for name in outlook.axes:
        hopeless |= means[name] > math.log(QUANTITIES[name].worst)
    shunned = {s.hash for s, is_so in zip(outlook.strategies, hopeless, strict=True) if is_so}
    everything = len(shunned) == len(outlook.strategies)
    return replace(view, shunned=frozenset() if everything else shunned, outlook=outlook)
