"""Warm start: what is known from elsewhere is tried first, and taken into account later."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

from paredown.search.base import Decision, Policy, Remembered, View
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
