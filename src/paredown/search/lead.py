"""An adviser in the lead: asked at every turn, and never trusted more than any other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import ClassVar, final

from paredown.errors import ParedownError
from paredown.search.base import Decision, Policy, View

STRIKES = 3
"""Unusable proposals in a row after which an adviser is no longer asked."""


def ask(policy: Policy, view: View) -> Decision | str:
    """What a policy that may fail proposes; or, in words, why that cannot be used."""
    try:
        decision = policy.choose(view)
    except ParedownError as error:
        return f"could not answer ({error})"
    if decision.strategy is None:
        return f"has nothing to propose ({decision.reason})"
    if not view.may(decision.strategy):
        return f"proposed what is known or impossible ({decision.strategy})"
    return decision


@final
@dataclass(frozen=True, kw_only=True)
class Led(Policy):
    """Every decision is the leader's; another policy decides where it has no usable answer.

    It stands before whatever a search begins with (skills, anchors, a first look at each method):
    these are in what the leader is shown, and they come first where it has no answer. It is held
    to what may be proposed: nothing twice, nothing infeasible, nothing that is forecast to be
    hopeless while anything better is left. When a run ends is not for it to say.

    Attributes:
        leader: asked first.
        then: decides in its place.
        strikes: unusable answers in a row, in this process only: who cannot answer now may do so
            when the run is resumed.
    """

    name: ClassVar[str] = "lead"
    leader: Policy
    then: Policy
    strikes: Counter[str] = field(default_factory=Counter, compare=False, repr=False)

    def choose(self, view: View) -> Decision:
        leader = self.leader.name
        if self.strikes[leader] >= STRIKES:
            why = f"no longer asked, after {STRIKES} answers in a row without use"
        else:
            answer = ask(self.leader, view)
            if isinstance(answer, Decision):
                self.strikes[leader] = 0  # only failures in a row count
                return replace(answer, policy=f"{self.name}:{leader}")
            self.strikes[leader] += 1
            why = answer
        decision = self.then.choose(view)
        return replace(decision, reason=f"{decision.reason} [{leader}: {why}]")
