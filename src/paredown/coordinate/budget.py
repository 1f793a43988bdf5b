"""What is left of the user's budget, with trials that ran side by side counted by the clock."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from paredown.search.base import Budget
from paredown.spec.result import TrialResult
from paredown.spec.run import RunConfig

_ROUNDED_S = 0.1
"""Seconds in the event of an episode are rounded to this."""


@dataclass(frozen=True)
class _Interval:
    """When an episode ran, in seconds of the clock, and what it took at the time."""

    episode: int
    start: float
    end: float
    took_s: float


def budget_left(
    config: RunConfig,
    results: Sequence[TrialResult],
    events: Iterable[dict[str, Any]],
    under_way: Collection[int] = (),
) -> Budget:
    """Episodes and seconds that may still be used.

    Args:
        results: of the finished episodes, the baseline among them.
        events: of the experiment.
        under_way: episodes that are being run: they have used time, too.
    """
    done = sum(r.episode > 0 for r in results)
    spent = spent_s(results, events, under_way, now=time.time())
    return Budget(
        episodes_left=config.episodes - done - len(under_way),
        seconds_left=None if config.budget_h is None else config.budget_h * 3600 - spent,
    )


def spent_s(
    results: Sequence[TrialResult],
    events: Iterable[dict[str, Any]],
    under_way: Collection[int],
    *,
    now: float,
) -> float:
    """Seconds that the episodes have taken.

    An episode that ran by itself counts as what it says it took. Those that overlapped count once,
    from the start of the first to the end of the last.
    """
    seconds = {result.episode: result.wall_s for result in results}
    spent = sum(seconds.values())
    for cluster in _clusters(_intervals(events, under_way, now)):
        known = [i for i in cluster if i.episode in seconds]
        if len(cluster) == 1 and known:
            continue
        span = max(i.end for i in cluster) - min(i.start for i in cluster)
        # What an episode was given after its end (more benchmark items) was no part of the span.
        later = [seconds[i.episode] - i.took_s for i in known]
        spent += span + sum(s for s in later if s > _ROUNDED_S)
        # They are in the sum already, one after another.
        spent -= sum(seconds[i.episode] for i in known)
    return spent


def _intervals(
    events: Iterable[dict[str, Any]], under_way: Collection[int], now: float
) -> list[_Interval]:
    """When episodes ran. One that a kill ended, to be run again, has left nothing to count."""
    begun: dict[int, float] = {}
    found: dict[int, _Interval] = {}
    for event in events:
        match event["event"]:
            case "decision":
                begun[event["episode"]] = event["time"]
            case "episode":
                number, took = event["episode"], event["seconds"]
                start = begun.pop(number, event["time"] - took)  # the baseline is not decided on
                found[number] = _Interval(number, start, event["time"], took)
    running = [_Interval(n, begun[n], now, 0.0) for n in under_way if n in begun]
    return [*found.values(), *running]


def _clusters(intervals: list[_Interval]) -> list[list[_Interval]]:
    """Intervals that overlap, directly or by others between them, together."""
    clusters: list[list[_Interval]] = []
    end = float("-inf")
    for interval in sorted(intervals, key=lambda i: i.start):
        if interval.start < end:
            clusters[-1].append(interval)
        else:
            clusters.append([interval])
        end = max(end, interval.end)
    return clusters
