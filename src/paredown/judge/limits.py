"""How far a result is from the user's limits, and what would let it in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paredown.judge.words import loss, name_of, ratio, signed_percent, speedup, times
from paredown.spec.result import TrialResult
from paredown.spec.target import Limits
from paredown.spec.units import GB, human_bytes


@dataclass(frozen=True, kw_only=True)
class Excess:
    """How far one result is from meeting one limit."""

    limit: str
    """The limit, in words."""
    seen: str
    """The value of the result, in words."""
    factor: float
    """0 when met; 0.1 when the value is off by 10 %; infinite when it was not measured."""
    mend: str
    """The option that would accept this result; empty where there is none."""


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The result that comes nearest to meeting all limits."""

    episode: int
    reason: str


def in_limits(limits: Limits) -> str:
    """The limits in words; empty when there are none."""
    pairs = (
        ("memory <= {:g} GB", limits.max_memory_gb),
        ("quality loss <= {:g} %", limits.max_accuracy_loss),
        ("speed-up >= {:g}x", limits.min_speedup),
        ("ratio >= {:g}x", limits.target_ratio),
    )
    return ", ".join(text.format(limit) for text, limit in pairs if limit is not None)


def excesses(result: TrialResult, baseline: TrialResult | None, limits: Limits) -> list[Excess]:
    """One entry per limit asked for, always in the same order."""
    found = []
    if limits.max_memory_gb is not None:
        found.append(_memory(limits.max_memory_gb, result.value("peak_memory")))
    if limits.max_accuracy_loss is not None:
        found.append(_loss(limits.max_accuracy_loss, loss(result, baseline)))
    if limits.min_speedup is not None:
        seen = speedup(result, baseline)
        found.append(_at_least("speed-up", "--min-speedup", limits.min_speedup, seen))
    if limits.target_ratio is not None:
        seen = ratio(result, baseline)
        found.append(_at_least("ratio", "--target-ratio", limits.target_ratio, seen))
    return found


def broken(result: TrialResult, baseline: TrialResult | None, limits: Limits) -> list[Excess]:
    """The limits that `result` does not meet; one that was not measured is not met."""
    return [excess for excess in excesses(result, baseline, limits) if excess.factor > 0]


def find_nearest(
    results: Sequence[TrialResult], baseline: TrialResult | None, limits: Limits
) -> Nearest:
    """Among results of which none meets the limits: the one whose worst excess is smallest."""

    def distance(result: TrialResult) -> tuple[float, int, int]:
        missed = broken(result, baseline, limits)
        return max(excess.factor for excess in missed), len(missed), result.episode

    best = min([r for r in results if r.episode > 0] or results, key=distance)
    missed = broken(best, baseline, limits)
    text = " and ".join(f"{excess.limit} (it has: {excess.seen})" for excess in missed)
    mends = [excess.mend for excess in missed]
    accept = f"; {' '.join(mends)} would accept it" if all(mends) else ""
    alone = _met_by_nobody(results, baseline, limits)
    return Nearest(
        episode=best.episode,
        reason=f"Nearest is {name_of(best)}: it misses {text}{accept}."
        + (f" Even taken alone, nothing meets {alone}." if alone else ""),
    )


def _met_by_nobody(
    results: Sequence[TrialResult], baseline: TrialResult | None, limits: Limits
) -> str:
    """The limits that no result meets, each with the best value seen."""
    table = [(result, excesses(result, baseline, limits)) for result in results]
    found = []
    for column in range(len(table[0][1])):
        result, row = min(table, key=lambda entry: entry[1][column].factor)
        if row[column].factor > 0:
            found.append(f"{row[column].limit} (best: {row[column].seen}, {name_of(result)})")
    return " or ".join(found)


def _memory(limit: float, seen: float | None) -> Excess:
    return Excess(
        limit=f"memory <= {limit:g} GB",
        seen="not measured" if seen is None else human_bytes(seen),
        factor=math.inf if seen is None else max(0.0, seen / (limit * GB) - 1),
        mend="" if seen is None else f"--max-memory-gb {_up(seen / GB)}",
    )


def _loss(limit: float, seen: float | None) -> Excess:
    return Excess(
        limit=f"quality loss <= {limit:g} %",
        seen="not measured" if seen is None else signed_percent(seen),
        factor=math.inf if seen is None else max(0.0, (100 + seen) / (100 + limit) - 1),
        mend="" if seen is None else f"--max-accuracy-loss {_up(seen)}",
    )


def _at_least(name: str, option: str, limit: float, seen: float | None) -> Excess:
    allowed = seen is not None and _down(seen) > (1 if option == "--target-ratio" else 0)
    return Excess(
        limit=f"{name} >= {limit:g}x",
        seen="not measured" if seen is None else times(seen),
        factor=max(0.0, limit / seen - 1) if seen else math.inf,
        mend=f"{option} {_down(seen)}" if seen is not None and allowed else "",
    )


def _up(value: float) -> float:
    return math.ceil(value * 100) / 100


def _down(value: float) -> float:
    return math.floor(value * 100) / 100
