"""What a policy is, and what it may decide from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, cast

from paredown.methods import registry
from paredown.search.space import Space
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.serial import content_hash
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits

Action = Literal["quantization", "pruning", "tuning", "pipeline", "search", "end"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What is left of the user's budget.

    Attributes:
        episodes_left: trials that may still be started.
        seconds_left: of the whole experiment; None means no limit.
    """

    episodes_left: int
    seconds_left: float | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do next, and why.

    Attributes:
        action: the kind of trial to run, or `end`.
        strategy: canonical; None if and only if nothing is to be tried (`end`, `search`).
        reason: in words, for the event log and the report.
        expected: predicted before running, by measurement name: `size` in bytes and
            `compression_ratio`.
        policy: name of the policy that decided.
    """

    action: Action
    strategy: Strategy | None
    reason: str
    expected: dict[str, float] | None = None
    policy: str


class Policy(ABC):
    """Proposes the next strategy. Subclasses are final and hold settings, no memory.

    The experiment folder is the truth: whatever a policy knows of earlier trials it reads from
    `history` at every call, and randomness comes from `call_seed(seed, history)`. So a killed run,
    resumed with the same seed, proposes exactly what the uninterrupted run would have proposed.

    `propose` returns a strategy of `space` whose hash does not occur in `history`, or ends the
    search, with the reason, when the budget or the space is used up.

    Class attributes:
        name: how `--policy` calls it.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def create(cls, *, seed: int, objectives: tuple[Objective, ...]) -> Self:
        """The policy as a run asks for it; settings it has no use for are the run's, not its."""

    @abstractmethod
    def propose(
        self, history: Sequence[TrialResult], space: Space, limits: Limits, *, budget: Budget
    ) -> Decision:
        """What to try next, given all finished trials (baseline and failures included)."""

    def observe(self, result: TrialResult) -> None:  # noqa: B027  (optional to override)
        """Told of each trial that finishes in this process, for caches only: see above."""


def call_seed(seed: int, history: Sequence[TrialResult]) -> int:
    """A 32-bit seed for the proposal that follows `history`."""
    return int(content_hash(["policy", seed, len(history)], length=8), 16)


def untried(history: Sequence[TrialResult], space: Space) -> list[Strategy]:
    """Strategies of the space that no finished trial has run, in the space's order."""
    tried = {result.strategy.hash for result in history if result.strategy is not None}
    return [strategy for key, strategy in space.by_hash.items() if key not in tried]


def why_end(left: Sequence[Strategy], space: Space, budget: Budget) -> str | None:
    """Why nothing more can be proposed, if so."""
    if budget.episodes_left <= 0:
        return "all episodes are used"
    if budget.seconds_left is not None and budget.seconds_left <= 0:
        return "the time budget is used up"
    if not left:
        return f"all {len(space.by_hash)} strategies of the space were tried"
    return None


def end(reason: str, *, policy: str) -> Decision:
    """The decision to stop."""
    return Decision(action="end", strategy=None, reason=reason, policy=policy)


def decide(strategy: Strategy, space: Space, *, reason: str, policy: str) -> Decision:
    """The decision to try a strategy of the space."""
    return Decision(
        action=cast("Action", registry.kind_of(strategy)),
        strategy=strategy,
        reason=reason,
        expected=space.expected(strategy),
        policy=policy,
    )
