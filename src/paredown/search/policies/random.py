"""The random policy: the baseline that every other search has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self, final

from paredown.search.base import Decision, Policy, View
from paredown.spec.run import Objective


@final
@dataclass(frozen=True, kw_only=True)
class Uniform(Policy):
    """Every strategy not tried yet is equally likely."""

    name: ClassVar[str] = "random"
    seed: int

    @classmethod
    def create(cls, *, seed: int, objectives: tuple[Objective, ...]) -> Self:
        return cls(seed=seed)

    def choose(self, view: View) -> Decision:
        chosen = Random(view.seed(self.seed, self.name)).choice(view.left)
        reason = f"drawn evenly from {len(view.left)} strategies not tried yet"
        return view.decide(chosen, reason=reason, policy=self.name)
