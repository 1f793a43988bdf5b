"""The grid policy: the space in its own order, most promising first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

from paredown.search.base import Budget, Decision, Policy, decide, end, untried, why_end
from paredown.search.space import Space
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.target import Limits


@final
@dataclass(frozen=True)
class Grid(Policy):
    """Every strategy once, in the order of the space."""

    name: ClassVar[str] = "grid"

    @classmethod
    def create(cls, *, seed: int, objectives: tuple[Objective, ...]) -> Self:
        return cls()

    def propose(
        self, history: Sequence[TrialResult], space: Space, limits: Limits, *, budget: Budget
    ) -> Decision:
        left = untried(history, space)
        if reason := why_end(left, space, budget):
            return end(reason, policy=self.name)
        done = len(space.by_hash) - len(left)
        reason = f"next in the order of the space ({done + 1} of {len(space.by_hash)})"
        return decide(left[0], space, reason=reason, policy=self.name)
