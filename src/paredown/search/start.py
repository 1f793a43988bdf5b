"""Warm start: strategies that are known to be good elsewhere are tried first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from paredown.search.base import Decision, Policy, View
from paredown.spec.result import TrialResult
from paredown.spec.strategy import Strategy


@final
@dataclass(frozen=True, kw_only=True)
class WarmStart(Policy):
    """Proposes the given strategies in their order, then lets another policy go on.

    Those that the space does not have (they cannot run on this model, or miss a limit) are passed
    over, and the reason says so.

    Attributes:
        strategies: canonical.
        then: the policy that goes on, with these trials in its history.
    """

    name: ClassVar[str] = "start"
    strategies: tuple[Strategy, ...]
    then: Policy

    def choose(self, view: View) -> Decision:
        left = {strategy.hash for strategy in view.left}
        first = next((s for s in self.strategies if s.hash in left), None)
        if first is None:
            return self.then.choose(view)
        place = self.strategies.index(first) + 1
        reason = f"warm start ({place} of {len(self.strategies)})"
        outside = sum(s.hash not in view.space.by_hash for s in self.strategies)
        if outside:
            reason += f"; {outside} given are not in the space"
        return view.decide(first, reason=reason, policy=self.name)

    def observe(self, result: TrialResult) -> None:
        self.then.observe(result)
