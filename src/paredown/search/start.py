"""Warm start: what is known from elsewhere is tried first, and taken into account later."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np

from paredown.judge.limits import breaks
from paredown.judge.quantities import QUANTITIES
from paredown.search.base import Decision, Policy, Remembered, View
from paredown.search.outlook import Outlook
from paredown.spec.run import OBJECTIVES, Objective
from paredown.spec.strategy import Strategy


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
            return self.then.choose(view)
        place = self.anchors.index(first) + 1
        reason = f"known to work on other models ({place} of {len(self.anchors)} to begin with)"
        return view.decide(first, reason=reason, policy=self.name)


def hopeful(view: View, objectives: tuple[Objective, ...]) -> View:
    """The view without what is forecast to break a limit, or to lie beyond the end of an axis.

    Unchanged where nothing is known to forecast from, and where nothing better is left: what is
    hopeless in a forecast may still be all there is.
    """
    outlook = Outlook.of(view, objectives)
    if outlook is None or not outlook.informed:
        return view
    names = tuple(outlook.forecasts)
    means = np.stack([outlook.forecasts[name].mean for name in names], axis=1)
    shunned = {
        strategy.hash
        for strategy, row in zip(outlook.strategies, means, strict=True)
        if _is_hopeless(dict(zip(names, row.tolist(), strict=True)), view)
    }
    return view if len(shunned) == len(outlook.strategies) else replace(view, shunned=shunned)


def _is_hopeless(logs: dict[Objective, float], view: View) -> bool:
    if any(log > math.log(QUANTITIES[name].worst) for name, log in logs.items()):
        return True
    return breaks({name: math.exp(log) for name, log in logs.items()}, view.limits)
