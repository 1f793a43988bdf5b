"""The random policy: the baseline that every other search has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self, final

from paredown.search.base import Budget, Decision, Policy, call_seed, decide, end, untried, why_end
from paredown.search.space import Space
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.target import Limits


@final
@dataclass(frozen=True, kw_only=True)
class Uniform(Policy):
    """Every strategy not tried yet is equally likely."""

    name: ClassVar[str] = "random"
    seed: int

    @classmethod
    def create(cls, *, seed: int, objectives: tuple[Objective, ...]) -> Self:
        return cls(seed=seed)

    def propose(
        self, history: Sequence[TrialResult], space: Space, limits: Limits, *, budget: Budget
    ) -> Decision:
        left = untried(history, space)
        if reason := why_end(left, space, budget):
            return end(reason, policy=self.name)
        chosen = Random(call_seed(self.seed, history)).choice(left)
        reason = f"drawn evenly from {len(left)} strategies not tried yet"
        return decide(chosen, space, reason=reason, policy=self.name)
