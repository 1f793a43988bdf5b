"""What a run begins with where the user said how large, or how good, the model may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from paredown.judge.limits import in_limits
from paredown.search.base import Decision, Policy, View
from paredown.spec.model import ModelSpec
from paredown.spec.strategy import Step, Strategy
from paredown.spec.target import Limits
from paredown.spec.units import bytes_text

PLANNER = "mixed"
"""The method that finds the plan for a size, or for a loss, by itself."""
SHARES = (0.8, 0.64, 1.0, 0.51, 1.25, 0.41)
"""Of the loss that is accepted, what is aimed at, the first first: a forecast is some 15 % wrong,
and a limit is met where the whole interval of what was measured is within it."""
_OF_QUALITY = ("max_accuracy_loss", "kl")
"""The limits that say how much may be lost."""


@final
@dataclass(frozen=True, kw_only=True)
class Aim:
    """A strategy that goes for what the user has asked.

    Attributes:
        strategy: canonical for a runtime once it is in a space; here as it is written.
        reason: in words.
        is_first: whether a run begins with it; others are there for what follows.
    """

    strategy: Strategy
    reason: str
    is_first: bool


def aims(limits: Limits, spec: ModelSpec) -> tuple[Aim, ...]:
    """Plans for the size that is asked for, and for the loss that is accepted, the best first.

    Nothing where neither is bounded.
    """
    found = []
    files = _most_files(limits, spec)
    if files is not None:
        # Downwards: the files are never larger than was asked for.
        bpw = math.floor(8e4 * files / spec.parameters) / 1e4
        reason = f"bits chosen layer by layer for files of at most {bytes_text(files)}"
        if bpw > 0:
            found.append(Aim(strategy=_plan(bpw=bpw), reason=reason, is_first=True))
    loss = accepted_kl(limits)
    if loss is not None:
        bound = Limits.model_validate(limits.model_dump(include=set(_OF_QUALITY)))
        for place, share in enumerate(SHARES):
            kl = float(f"{share * loss:.3g}")
            reason = (
                f"bits chosen layer by layer for a KL of {kl:g} nats per token, within what may be "
                f"lost ({in_limits(bound)})"
            )
            found.append(Aim(strategy=_plan(kl=kl), reason=reason, is_first=place == 0))
    return tuple(found)


def accepted_kl(limits: Limits) -> float | None:
    """The loss that is accepted as a KL, nats per token; None where none is bounded, or it is 0.

    A perplexity that rises by 3 % is a loss of ln 1.03 nats per token, and so is a KL of that much
    for a base that knows its text (in the shipped table the first is 0.8 to 1.0 of the second). Of
    a benchmark's score nothing better is known before any trial.
    """
    bounds = [] if limits.kl is None else [limits.kl]
    for percent in (limits.loss_percent, limits.loss_points):
        if percent:
            bounds.append(math.log1p(percent / 100))
    return min(bounds, default=None)


def _most_files(limits: Limits, spec: ModelSpec) -> int | None:
    bounds = [limits.most_bytes(spec.parameters)]
    if limits.target_ratio is not None:
        bounds.append(int(spec.weight_bytes / limits.target_ratio))
    return min((b for b in bounds if b is not None), default=None)


def _plan(**params: float) -> Strategy:
    return Strategy(steps=(Step(method=PLANNER, params=params),))


@final
@dataclass(frozen=True, kw_only=True)
class Aimed(Policy):
    """Proposes the plans for what the user has asked, then lets another policy go on.

    Attributes:
        first: canonical, of the space, each with its reason.
        then: the policy that goes on, with these trials in its history.
    """

    name: ClassVar[str] = "aim"
    first: Sequence[tuple[Strategy, str]]
    then: Policy

    def choose(self, view: View) -> Decision:
        for strategy, reason in self.first:
            if view.may(strategy):
                return view.decide(strategy, reason=reason, policy=self.name)
        return self.then.choose(view)
