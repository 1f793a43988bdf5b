"""What the search cost, from the event log and the episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from paredown.store.experiment import ExperimentRecord

_START = "started"
"""The event that begins a session; a resume begins another one."""
_PAUSED, _RESUMED = "paused", "resumed"
"""The events between which a run only waits for its user."""


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


@dataclass(frozen=True, kw_only=True)
class LlmCost:
    """What an LLM took in an experiment, resumed sessions included."""

    questions: int
    """Requests, repair rounds included."""
    usable: int
    """Answers that could be used."""
    sent: int
    """Tokens."""
    received: int
    """Tokens."""
    estimated: int
    """Questions whose tokens the endpoint did not report: they are estimated from the length."""
    usd: float | None
    """US dollars; None where a price was not known."""
    seconds: float
    """Waited for answers."""


def llm_cost(events: Sequence[dict[str, Any]]) -> LlmCost | None:
    """The cost of an LLM from its events; None where none was asked."""
    asked = [event for event in events if event.get("event") == "llm"]
    if not asked:
        return None
    answered = [event for event in asked if event["counted"]]
    prices = [event["usd"] for event in answered]
    return LlmCost(
        questions=len(asked),
        usable=sum(event["outcome"] not in {"unusable", "no_answer"} for event in asked),
        sent=sum(int(event["sent"]) for event in asked),
        received=sum(int(event["received"]) for event in asked),
        estimated=sum(event["counted"] == "estimated" for event in answered),
        usd=None if None in prices else round(sum(map(float, prices)), 6),
        seconds=round(sum(float(event.get("seconds") or 0.0) for event in asked), 3),
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
    """Seconds between the first and last event of every session, pauses taken off, summed."""
    total, last = 0.0, None
    waits = False
    for event in events:
        time, name = event.get("time"), event.get("event")
        if not isinstance(time, int | float):
            continue
        if last is not None and not waits and name != _START:
            total += time - last
        waits = name == _PAUSED or (waits and name not in {_RESUMED, _START})
        last = time
    return total
