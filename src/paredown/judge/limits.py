"""Whether results are within the user's limits, by how much they are not, and what would let them
in.

A limit is *met* or *broken* where the whole 95 % interval of what was measured is on one side of
it, and *undecided* where the interval crosses it, or nothing was measured. What that means for each
use is decided here and nowhere else:

- Whatever is promised to the user needs *met*: `unmet` (which results record), the recommendation,
  and whether a skill has held. A limit that is undecided is never said to be met.
- Whatever only looks for what to try next, or what to measure next, shuns what is *broken* alone:
  `violations` (the search, its gain included; by the value, since it is not a promise), forecasts,
  warm starts, and whether a candidate is worth a benchmark. What was not measured is not held
  against a candidate, or a machine that cannot measure speed could never search under a limit on
  it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from pydantic import ValidationError

from paredown.judge.quantities import (
    DIVERGENCE,
    LOST_POINTS,
    POINTS,
    QUANTITIES,
    SCORED,
    Bound,
    bounds,
    quantity,
)
from paredown.judge.quantity import Limit, Reading
from paredown.judge.words import name_of
from paredown.language import listed, say
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.target import Limits
from paredown.spec.units import GB, bytes_text, human_bytes


class State(StrEnum):
    """What is known of a limit and a result."""

    MET = "met"
    BROKEN = "broken"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One limit that the user has set, against one result.

    Attributes:
        limit: of the table.
        bound: that was asked for, in the limit's unit.
        seen: what the result has; None where it was not measured.
        mend: the option that would accept this result; empty where there is none.
    """

    limit: Limit
    bound: float
    seen: Reading | None
    mend: str

    @property
    def excess(self) -> float:
        """0 where the value is within, 0.1 where it is off by 10 %, infinite where unknown."""
        if self.seen is None:
            return math.inf
        return max(0.0, self.limit.excess(self.seen.value, self.bound))

    @property
    def state(self) -> State:
        """Met, broken or undecided."""
        if self.seen is None:
            return State.UNDECIDED
        beyond = {self.limit.excess(end, self.bound) > 0 for end in (self.seen.low, self.seen.high)}
        if len(beyond) == 2:
            return State.UNDECIDED
        return State.BROKEN if beyond == {True} else State.MET

    @property
    def asked(self) -> str:
        """The limit, in words."""
        return self.limit.in_words(self.bound)

    @property
    def has(self) -> str:
        """The value of the result, in words."""
        if self.seen is None:
            return say("not measured")
        shown = self.limit.shown(self.seen.value)
        if self.state is not State.UNDECIDED:
            return shown
        low, high = self._ends
        return say("{value}, which may be {low} to {high}", value=shown, low=low, high=high)

    @property
    def _ends(self) -> tuple[str, str]:
        if self.seen is None:
            raise AssertionError("what was not measured has no interval")
        return self.limit.shown(self.seen.low), self.limit.shown(self.seen.high)

    def __str__(self) -> str:
        """What is wrong, with both numbers: `memory 2 GB > 1.9 GB`."""
        limit = self.limit
        if self.seen is None:
            return say("{what} was not measured", what=say(limit.name))
        value, bound = self.seen.value, self.bound
        plain = limit.text is None
        shown = f"{value:.3g} {say(limit.unit)}" if plain else limit.shown(value)
        seen = f"{say(limit.name)} {shown}"
        if self.state is State.UNDECIDED:
            low, high = self._ends
            return say(
                "{seen} (which may be {low} to {high}) is not shown to be {asked}",
                seen=seen, low=low, high=high, asked=limit.relation(bound),
            )  # fmt: skip
        relation = ">" if limit.upper else "<"
        asked = f"{bound:g} {say(limit.unit)}" if plain else limit.written(bound)
        return f"{seen} {relation} {asked}"


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The result that comes nearest to meeting all limits."""

    episode: int
    reason: str


def in_limits(limits: Limits) -> str:
    """The limits in words; empty when there are none."""
    return listed(map(str, bounds(limits)))


def check(result: TrialResult, baseline: TrialResult | None, limits: Limits) -> list[Check]:
    """One entry per limit asked for, always in the same order."""
    found = []
    for bound in bounds(limits, baseline):
        seen = bound.quantity.bounded(result, baseline)
        mend = _mend(bound.limit, seen, limits)
        found.append(Check(limit=bound.limit, bound=bound.value, seen=seen, mend=mend))
    return found


def missed(result: TrialResult, baseline: TrialResult | None, limits: Limits) -> list[Check]:
    """The limits that `result` is not known to meet: broken ones and undecided ones."""
    return [c for c in check(result, baseline, limits) if c.state is not State.MET]


def broken(result: TrialResult, baseline: TrialResult | None, limits: Limits) -> tuple[str, ...]:
    """The limits that `result` is known to break, in words: no further measurement mends that."""
    checks = check(result, baseline, limits)
    return tuple(str(c) for c in checks if c.state is State.BROKEN)


def unmet(result: TrialResult, baseline: TrialResult | None, limits: Limits) -> tuple[str, ...]:
    """What a result records of the limits that it is not known to meet, in words with numbers."""
    return tuple(map(str, missed(result, baseline, limits)))


def violations(
    result: TrialResult, baseline: TrialResult | None, limits: Limits
) -> dict[str, float]:
    """By how much a result breaks each limit, by its field; <= 0 where it is met.

    What was not measured is left out: the search does not hold it against a candidate.
    """
    return {
        c.limit.field: c.limit.excess(c.seen.value, c.bound)
        for c in check(result, baseline, limits)
        if c.seen is not None
    }


def breaks(over: Mapping[Objective, float], limits: Limits, *, named: bool = False) -> bool:
    """Whether quantities over the baseline's, imagined or remembered, break a limit.

    Limits that do not depend on the baseline, and quantities that are not given, break nothing.

    Args:
        over: by objective.
        named: quality is that which the user named, as `bounded_quality` has it; else the text's
            perplexity, of which a limit in points says nothing.
    """
    return any(
        limit.excess(limit.seen_from(value), bound) > 0
        for limit, bound, value in _bounded(over, limits, named=named)
    )


def _bounded(
    over: Mapping[Objective, float], limits: Limits, *, named: bool
) -> Iterator[tuple[Limit, float, float]]:
    """Each limit that can be judged, its bound, and what its `seen_from` takes."""
    for bound in _asked(limits):
        limit, value = bound.limit, over.get(bound.objective)
        if value is None:
            continue
        if bound.quantity is LOST_POINTS:
            if named:
                yield limit, bound.value, 100 * (1 - value)
        elif bound.quantity is DIVERGENCE:
            # Of a base that knows its text, the rise of the loss is the divergence; in the shipped
            # table it is 0.8 to 1.0 of it.
            yield limit, bound.value, math.log(value)
        elif not limit.absolute:
            scored = named and bound.objective == "quality" and SCORED.limit
            yield scored or limit, bound.value, value


# A turn of the search asks this of every strategy, many times imagined.
@lru_cache(maxsize=64)
def _asked(limits: Limits) -> tuple[Bound, ...]:
    return tuple(bounds(limits))


def bounds_named_quality(baseline: TrialResult | None, limits: Limits) -> bool:
    """Whether a limit bounds a quality that the user named, and not the text's perplexity."""
    named = quantity("quality", baseline) is SCORED
    return named and limits.max_accuracy_loss is not None


def bounded_quality(
    result: TrialResult, baseline: TrialResult | None, limits: Limits
) -> float | None:
    """The quality that the user's limit bounds, over the baseline's: above 1 where it is worse.

    What the base scores over what the result scores; of a limit in points, 1 and a hundredth for
    each point lost. None where it was not measured.
    """
    if limits.loss_points is not None:
        change = result.get(POINTS)
        return None if change is None else 1 - change.value / 100
    found = quantity("quality", baseline).over(result, baseline)
    return None if found is None else found.value


def broken_by_size(size: int, ratio: float, limits: Limits, *, parameters: int = 0) -> str | None:
    """Which limit is broken by weights of so many bytes, if one: what is known before a trial.

    Serving takes at least the weights, so a bound on memory bounds them, too.

    Args:
        size: bytes of the weights.
        ratio: those of the base over them.
        parameters: of the base, from which bits per weight are counted.
    """
    files = limits.most_bytes(parameters)
    if files is not None and size > files:
        return f"its files take {human_bytes(size)} > {bytes_text(files)}"
    memory, shrink = QUANTITIES["memory"].limit, QUANTITIES["size"].limit
    most = None if memory is None else memory.asked(limits)
    least = None if shrink is None else shrink.asked(limits)
    if least is not None and ratio < least:
        return f"predicted ratio {ratio:.2f}x < {least:g}x"
    if most is not None and size > most * GB:
        return f"weights alone take {size / GB:.2f} GB > {most:g} GB"
    return None


def find_nearest(
    results: Sequence[TrialResult], baseline: TrialResult | None, limits: Limits
) -> Nearest:
    """Among results of which none meets the limits: the one whose worst excess is smallest."""

    def distance(result: TrialResult) -> tuple[float, int, int]:
        misses = missed(result, baseline, limits)
        return max(c.excess for c in misses), len(misses), result.episode

    # The uncompressed model is the nearest only where nothing else was measured.
    best = min([r for r in results if r.episode > 0] or results, key=distance)
    misses = missed(best, baseline, limits)
    text = say(" and ").join(
        say("{asked} (it has: {value})", asked=c.asked, value=c.has) for c in misses
    )
    mends = [c.mend for c in misses]
    told = {"name": name_of(best), "missed": text}
    if all(mends):
        options = " ".join(mends)
        reason = say(
            "Nearest is {name}: it misses {missed}; {options} would accept it.",
            **told, options=options,
        )  # fmt: skip
    else:
        reason = say("Nearest is {name}: it misses {missed}.", **told)
    if alone := _met_by_nobody(results, baseline, limits):
        reason += say(" Even taken alone, nothing meets {limits}.", limits=alone)
    return Nearest(episode=best.episode, reason=reason)


def _met_by_nobody(
    results: Iterable[TrialResult], baseline: TrialResult | None, limits: Limits
) -> str:
    """The limits that no result meets, each with the best value seen."""
    rows = [(result, check(result, baseline, limits)) for result in results]
    found = []
    for column in range(len(rows[0][1])):
        result, row = min(rows, key=lambda entry: entry[1][column].excess)
        if row[column].state is not State.MET:
            found.append(
                say(
                    "{asked} (best: {value}, {name})",
                    asked=row[column].asked, value=row[column].has, name=name_of(result),
                )
            )  # fmt: skip
    return say(" or ").join(found)


def _mend(limit: Limit, seen: Reading | None, limits: Limits) -> str:
    """The option that would just accept what was seen, rounded to its side of it."""
    if seen is None:
        return ""
    # The end that is worst for the user: a bound at the value itself would stay undecided.
    value = limit.accepting(seen.high if limit.upper else seen.low)
    try:  # what the option itself refuses is no mend
        type(limits).model_validate({limit.field: value})
    except ValidationError:
        return ""
    return f"{limit.option} {value}"
