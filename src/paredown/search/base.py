"""What a policy is, and what it may decide from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from paredown.methods import registry
from paredown.search.cost import CostModel
from paredown.search.index import Genome
from paredown.search.past import Past
from paredown.search.space import Space
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.serial import content_hash
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits

if TYPE_CHECKING:
    from paredown.search.outlook import Outlook

Action = Literal["quantization", "pruning", "tuning", "pipeline", "end"]

DRAWS = 1000
"""Samples of a space that may turn out to be known, or to take too long, before a policy gives up.
"""
OPENING_SHARE = 1 / 3
"""At most this share of the trials goes into seeing each method once."""


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
        strategy: canonical; None if and only if nothing is to be tried (`end`).
        reason: in words, for the event log and the report.
        expected: predicted before running, by measurement name: `size` in bytes and
            `compression_ratio`; `seconds` of the trial once a trial has finished.
        policy: name of the policy that decided; `portfolio:bayesian` for an arm of the portfolio.
        learned: what an LLM in the lead says that the trials so far have taught it.
    """

    action: Action
    strategy: Strategy | None
    reason: str
    expected: dict[str, float] | None = None
    policy: str
    learned: str | None = None


class Remembered(BaseModel):
    """What a strategy did to models of the family in earlier experiments."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategy
    over: dict[Objective, float] = {}
    """Measurements as multiples of that model's baseline, each > 0; quality is the perplexity."""
    kept: float | None = Field(default=None, gt=0)
    """Share kept of the quality that the user of this run named; None: nobody has measured it."""
    failed: bool = False
    """It came to nothing each time."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What a policy decides from: all that is known when a proposal is asked for.

    Attributes:
        history: the finished trials, baseline and failures included; of very many, those that are
            worth learning from.
        forgotten: hashes of the strategies of all others.
        space: what may be proposed.
        limits: of the user.
        budget: what is left of it.
        pending: proposals that are being run, not in `history` yet.
        opened: somebody else sees to it that every method is looked at.
        remembered: from experiments on other models.
        shunned: hashes of what is left out for now, because something better is left.
        outlook: what was forecast in this turn already.
    """

    history: Sequence[TrialResult]
    space: Space
    limits: Limits
    budget: Budget
    pending: Sequence[Decision] = ()
    forgotten: frozenset[str] = frozenset()
    opened: bool = False
    remembered: Sequence[Remembered] = ()
    shunned: Collection[str] = frozenset()
    outlook: Outlook | None = None

    @cached_property
    def trials(self) -> list[TrialResult]:
        """Finished trials without the baseline, in order."""
        return [result for result in self.history if result.strategy is not None]

    @cached_property
    def started(self) -> list[Strategy]:
        """Strategies that were tried or are being tried, in order."""
        finished = [result.strategy for result in self.history if result.strategy is not None]
        return [*finished, *(p.strategy for p in self.pending if p.strategy is not None)]

    @cached_property
    def tried(self) -> frozenset[str]:
        """Hashes of what was started."""
        return self.forgotten.union(strategy.hash for strategy in self.started)

    @cached_property
    def untried(self) -> list[Strategy]:
        """Listed strategies of the space that were not started yet, in the space's order."""
        return [s for s in self.space.strategies if s.hash not in self.tried]

    @cached_property
    def left(self) -> list[Strategy]:
        """Of the listed strategies, what may be proposed: untried, in time, and not shunned."""
        return [s for s in self.untried if s.hash not in self.shunned and self.is_in_time(s)]

    def is_in_time(self, strategy: Strategy) -> bool:
        """Whether it is not known to take longer than the time left."""
        seconds = self.budget.seconds_left
        if seconds is None or not self.costs.knows(strategy):
            return True
        return self.costs.seconds(strategy) <= seconds

    def may(self, strategy: Strategy) -> bool:
        """Whether a strategy (canonical), listed or not, may be proposed."""
        # In this order: in a space that is not listed, to be in it is the dear question.
        return (
            strategy.hash not in self.tried
            and strategy.hash not in self.shunned
            and self.is_in_time(strategy)
            and strategy in self.space
        )

    def nearest(self, wanted: Genome) -> Strategy | None:
        """What may be proposed with the wanted methods, as near as there is."""
        return self.space.nearest(wanted, self.may)

    def draw(self, rng: Random) -> Strategy | None:
        """Something that may be proposed: of a listed space, each equally likely; of another, as
        it samples, and None where that finds nothing new."""
        if self.space.is_listed:
            return rng.choice(self.left)
        drawn = (self.space.sample(rng) for _ in range(DRAWS))
        return next(filter(self.may, drawn), None)

    def following(self, *, reason: str, policy: str) -> Decision:
        """The decision for the next one in the order of the space; where the list of one that goes
        on is used up, for a draw; to end where there is nothing."""
        if self.left:
            return self.decide(self.left[0], reason=reason, policy=policy)
        found = None if self.space.is_listed else self.draw(Random(self.seed(0, "following")))
        if found is None:
            return end(f"{reason}, where nothing new was found", policy=policy)
        return self.decide(found, reason=f"{reason}, beyond what is listed", policy=policy)

    @cached_property
    def costs(self) -> CostModel:
        """What trials are expected to take, learned from the finished ones."""
        return CostModel.fit(self.history)

    def seed(self, seed: int, salt: str) -> int:
        """A 32-bit seed for this proposal; other for each turn, run seed and `salt`."""
        # One more with each proposal, those of a batch included, and the same after a resume.
        turn = len(self.history) + len(self.forgotten) + len(self.pending)
        return int(content_hash(["policy", salt, seed, turn], length=8), 16)

    def why_end(self) -> str | None:
        """Why nothing more can be proposed, if so."""
        if self.budget.episodes_left <= 0:
            return "all episodes are used"
        if self.budget.seconds_left is not None and self.budget.seconds_left <= 0:
            return "the time budget is used up"
        if self.space.is_listed and not self.untried:
            return f"all {len(self.space.strategies)} strategies of the space were tried"
        # What a trial takes depends on its methods alone, so these stand for all that is not
        # listed; and a plan has no need of the list.
        among = self.untried if self.space.is_listed else self.space.first_of_methods().values()
        if not any(map(self.is_in_time, among)):
            shortest = min(map(self.costs.seconds, among))
            return (
                f"the {self.budget.seconds_left:.0f} s left are too few for any strategy: the "
                f"shortest is expected to take {shortest:.0f} s"
            )
        return None

    def opening(self, *, spread: bool = False) -> Strategy | None:
        """A method not seen yet, where it is time for one: without, the best may never be.

        The default of each method, kinds in turns. None where it is not the time. A method whose
        effect on other models is remembered needs no first look.

        Args:
            spread: the first trial, and then as often as at most `OPENING_SHARE` of the trials so
                far were the first of a method: what is found good can be followed at once. Else
                one after the other, before there is anything to learn from, until all were seen or
                `OPENING_SHARE` of the run's trials is used.
        """
        if self.opened:
            return None
        started = len(self.started)
        seen = {step.method for memory in self.remembered for step in memory.strategy.steps}
        fresh = 0
        for strategy in self.started:
            methods = {step.method for step in strategy.steps}
            fresh += not methods <= seen
            seen |= methods
        whole_run = started + self.budget.episodes_left
        if (spread and fresh > started * OPENING_SHARE) or (
            not spread and started >= math.ceil(whole_run * OPENING_SHARE)
        ):
            return None
        firsts = self.space.first_of_methods()
        return next((s for name, s in firsts.items() if name not in seen and self.may(s)), None)

    def opened_by(self, policy: str, *, spread: bool = False) -> Decision | None:
        """The decision for a method not seen yet, where it is time for one: see `opening`."""
        first = self.opening(spread=spread)
        if first is None:
            return None
        return self.decide(first, reason="opening: a method not seen yet", policy=policy)

    def decide(self, strategy: Strategy, *, reason: str, policy: str) -> Decision:
        """The decision to try a strategy of the space."""
        expected = self.space.expected(strategy)
        if self.costs.is_fitted:
            expected["seconds"] = self.costs.seconds(strategy)
        return Decision(
            action=cast("Action", registry.kind_of(strategy)),
            strategy=strategy,
            reason=reason,
            expected=expected,
            policy=policy,
        )


class Policy(ABC):
    """Proposes the next strategy. Subclasses are final and hold settings, no memory.

    The experiment folder is the truth: whatever a policy knows of earlier trials it reads from the
    `View` at every call, and randomness comes from `View.seed`. So a killed run, resumed with the
    same seed, proposes exactly what the uninterrupted run would have proposed.

    A policy chooses what `view.may` be proposed: nothing twice, and nothing that the space knows
    to be infeasible. Of a space that is not listed, those that weigh all strategies against each
    other see the listed ones (`view.left`); others draw, and go from neighbour to neighbour.

    A policy that `--policy` can name has a class method `create(*, seed, objectives)` besides.

    Class attributes:
        name: how `--policy` calls it.
    """

    name: ClassVar[str]

    def is_ready(self, view: View) -> bool:
        """Whether it has something to decide from. A portfolio asks only those that are; an arm
        that is not loses nothing by it."""
        return True

    @abstractmethod
    def choose(self, view: View) -> Decision:
        """Something that may be proposed, and why. Asked only where `view.why_end` is None, so in
        a listed space `view.left` is not empty; in another one the answer may be to end."""

    def propose(
        self,
        history: Sequence[TrialResult],
        space: Space,
        limits: Limits,
        *,
        budget: Budget,
        pending: Sequence[Decision] = (),
    ) -> Decision:
        """What to try next; or `end`, with the reason, when the budget or the space is used up.

        Args:
            history: all finished trials, baseline and failures included.
            space: what may be proposed.
            limits: of the user.
            budget: what is left of it, trials that are being run taken off.
            pending: earlier proposals that are still being run.
        """
        return self._propose(Past.of(history), space, limits, budget=budget, pending=pending)

    def _propose(
        self,
        past: Past,
        space: Space,
        limits: Limits,
        *,
        budget: Budget,
        pending: Sequence[Decision],
    ) -> Decision:
        view = View(
            history=past.learned, forgotten=past.forgotten, space=space, limits=limits,
            budget=budget, pending=pending,
        )  # fmt: skip
        if reason := view.why_end():
            return end(reason, policy=self.name)
        return self.choose(view)

    def propose_batch(
        self,
        history: Sequence[TrialResult],
        space: Space,
        limits: Limits,
        *,
        budget: Budget,
        count: int,
        pending: Sequence[Decision] = (),
    ) -> tuple[Decision, ...]:
        """Up to `count` different proposals for workers that run side by side.

        Each is made knowing that those before it are being run. Fewer come back where the budget
        or the space ends; a single `end` where nothing can be proposed at all.
        """
        chosen: list[Decision] = []
        past = Past.of(history)
        while len(chosen) < count:
            left = Budget(
                episodes_left=budget.episodes_left - len(chosen), seconds_left=budget.seconds_left
            )
            decision = self._propose(past, space, limits, budget=left, pending=(*pending, *chosen))
            if decision.strategy is None:
                return tuple(chosen) or (decision,)
            chosen.append(decision)
        return tuple(chosen)


def end(reason: str, *, policy: str) -> Decision:
    """The decision to stop."""
    return Decision(action="end", strategy=None, reason=reason, policy=policy)
