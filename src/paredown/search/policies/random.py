"""The random policy: the baseline that every other search has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self, final

from paredown.search.base import Decision, Policy, View, end
from paredown.spec.run import Objective


@final
@dataclass(frozen=True, kw_only=True)
class Uniform(Policy):
    """Every strategy not tried yet is equally likely; what is not listed is drawn as it can be."""

    name: ClassVar[str] = "random"
    seed: int

    @classmethod
    def create(cls, *, seed: int, objectives: tuple[Objective, ...]) -> Self:
        return cls(seed=seed)

    def choose(self, view: View) -> Decision:
        chosen = view.draw(Random(view.seed(self.seed, self.name)))
        if chosen is None:
            return end("nothing drawn was new", policy=self.name)
        reason = (
            f"drawn evenly from {len(view.left)} strategies not tried yet"
            if view.space.is_listed
            else "drawn from the space"
        )
        return view.decide(chosen, reason=reason, policy=self.name)
