"""The grid policy: the space in its own order, most promising first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self, final

from paredown.search.base import Decision, Policy, View
from paredown.spec.run import Objective


@final
@dataclass(frozen=True)
class GridSearch(Policy):
    """Every strategy once, in the order of the space: single methods, then pipelines."""

    name: ClassVar[str] = "grid"

    @classmethod
    def create(cls, *, seed: int, objectives: tuple[Objective, ...]) -> Self:
        return cls()

    def choose(self, view: View) -> Decision:
        whole = len(view.space.strategies)
        place = whole - len(view.untried) + 1
        reason = f"next in the order of the space ({place} of {whole})"
        return view.following(reason=reason, policy=self.name)
