"""What the search cost, from the event log and the episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from paredown.store.experiment import ExperimentRecord

_START = "started"
"""The event that begins a session; a resume begins another one."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Time and episodes of a search."""

    wall_s: float
    """Seconds in which the run was active; pauses before a resume are left out."""
    compress_s: float
    evaluate_s: float
    episodes_ok: int
    """Trials, without the baseline."""
    episodes_failed: int
    refused: int
    """Strategies refused at planning time, before anything was loaded."""

    @property
    def overhead(self) -> float | None:
        """Share of the time spent neither compressing nor evaluating."""
        if self.wall_s <= 0:
            return None
        return max(0.0, 1 - (self.compress_s + self.evaluate_s) / self.wall_s)


def search_cost(record: ExperimentRecord) -> Cost:
    """The cost of a finished search, or of a running one so far."""
    return Cost(
        wall_s=round(max(_active(record.events), sum(r.wall_s for r in record.results)), 3),
        compress_s=round(sum(r.compress_s for r in record.results), 3),
        evaluate_s=round(sum(r.evaluate_s for r in record.results), 3),
        episodes_ok=sum(r.status == "ok" for r in record.trials),
        episodes_failed=sum(r.status == "failed" for r in record.trials),
        refused=len(refusals(record)),
    )


def refusals(record: ExperimentRecord) -> list[tuple[str, str]]:
    """strategy and reason of every strategy refused at planning; a resume says them again."""
    found = (
        (str(event.get("strategy", "-")), str(event.get("reason", "-")))
        for event in record.events
        if event.get("event") == "refused"
    )
    return list(dict.fromkeys(found))


def as_json(cost: Cost) -> dict[str, Any]:
    """The fields, and the overhead derived from them."""
    share = cost.overhead
    return {**asdict(cost), "overhead_share": None if share is None else round(share, 4)}


def _active(events: Sequence[dict[str, Any]]) -> float:
    """Seconds between the first and last event of every session, summed."""
    total, first, last = 0.0, None, None
    for event in events:
        time = event.get("time")
        if not isinstance(time, int | float):
            continue
        if first is None or last is None or event.get("event") == _START:
            total += last - first if first is not None and last is not None else 0.0
            first = time
        last = time
    return total + (last - first if first is not None and last is not None else 0.0)
