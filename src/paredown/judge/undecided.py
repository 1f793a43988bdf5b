"""Which decisions the intervals of the scores leave open, and whose further items would close them.

A score on a hundred items is known to within five points or so. Where a limit, the front or the
recommendation would come out otherwise at the other end of that interval, more items are worth
their price; where it would not, they are not, however wide the interval is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from paredown.judge.findings import Findings, judge
from paredown.judge.limits import State, check
from paredown.judge.quantities import KEPT, LOST_POINTS, POINTS, SCORED
from paredown.judge.words import name_of
from paredown.language import say
from paredown.spec.result import Measurement, TrialResult

Decision = Literal["recommendation", "limit", "front"]
_ORDER: tuple[Decision, ...] = ("recommendation", "limit", "front")


@dataclass(frozen=True, kw_only=True)
class Undecided:
    """A decision that further items of one result's benchmarks would close.

    Attributes:
        decision: which one.
        episode: whose items decide it.
        items: that may still be asked, over all its benchmarks.
        reason: in words.
    """

    decision: Decision
    episode: int
    items: int
    reason: str


def undecided(findings: Findings) -> tuple[Undecided, ...]:
    """What is open, the most important first and, of equals, what has the fewest items left.

    A result is taken at the two ends of its interval, all others as they are: what differs between
    the ends is open. A result that was stopped early has surely lost, and is not asked again.
    """
    found: list[Undecided] = []
    for result in findings.results:
        kept, items = result.get(KEPT), items_left(result)
        if result.strategy is None or kept is None or not items or kept.low == kept.high:
            continue
        ends = [_at_end(findings, result, high=high) for high in (False, True)]
        found += [
            Undecided(decision=decision, episode=result.episode, items=items, reason=reason)
            for decision, reason in _differing(result, findings, ends)
        ]
    return tuple(sorted(found, key=lambda u: (_ORDER.index(u.decision), u.items, u.episode)))


def items_left(result: TrialResult) -> int:
    """Benchmark items that were not asked yet, and may be."""
    return sum(s.n_available - s.n for s in result.scores if s.stopped is None)


def _differing(
    result: TrialResult, findings: Findings, ends: list[Findings]
) -> Iterable[tuple[Decision, str]]:
    name = name_of(result)
    low, high = ends
    if low.recommendation.episode != high.recommendation.episode:
        yield "recommendation", say("what is recommended depends on how good {name} is", name=name)
    for before in check(result, findings.baseline, findings.limits):
        # By the interval alone: what was not measured at all is no matter of further items.
        by_score = before.limit in (SCORED.limit, LOST_POINTS.limit)
        if by_score and before.state is State.UNDECIDED and before.seen is not None:
            yield "limit", say("{name}: {limit}", name=name, limit=before)
    if (result in low.front) != (result in high.front):
        yield (
            "front",
            say("whether {name} is on the front depends on how good it is", name=name),
        )


def _at_end(findings: Findings, result: TrialResult, *, high: bool) -> Findings:
    """The findings, were this result's quality at one end of its interval."""
    pinned = result.model_copy(
        update={"measurements": tuple(_pinned(m, high=high) for m in result.measurements)}
    )
    others = [pinned if r.episode == result.episode else r for r in findings.results]
    return judge(others, findings.front.objectives, findings.limits)


def _pinned(measurement: Measurement, *, high: bool) -> Measurement:
    end = measurement.high if high else measurement.low
    if measurement.name not in {KEPT, POINTS} or end is None:
        return measurement
    return measurement.model_copy(update={"value": end, "low": end, "high": end})
