"""Results in several engines: which of them are worth having, and which to take.

Within an engine results are judged as ever. Across engines a speed relative to the base would say
nothing, for each engine has a base of its own: there milliseconds and bytes are compared, and
quality as what is lost against the base in the same engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from paredown.analysis.pareto import pareto_mask
from paredown.judge.findings import judge
from paredown.judge.quantities import finished_baseline, quantity
from paredown.language import listed, say
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.target import Limits

_ABSOLUTE: dict[Objective, str] = {
    "size": "size", "latency": "decode_latency", "memory": "peak_memory",
}  # fmt: skip
"""Objective -> measurement that can be compared across engines."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One result in one engine.

    Attributes:
        on_front: whether no point, in whatever engine, is nowhere worse and somewhere better.
        recommended: whether it is what to take in its engine.
    """

    runtime: str
    result: TrialResult
    on_front: bool
    recommended: bool


@dataclass(frozen=True, kw_only=True)
class Across:
    """All points, and the one to take.

    Attributes:
        chosen: of those recommended in their engine, the fastest; of those that meet the limits
            where some do. None: no engine has one.
    """

    points: tuple[Point, ...]
    chosen: Point | None

    @property
    def reason(self) -> str:
        """Why it was chosen, in words."""
        others = [p for p in self.points if p.recommended and p is not self.chosen]
        if self.chosen is None:
            return say("nothing can be recommended in any of the engines")
        mine = self.chosen.result.value("decode_latency")
        told = [
            f"{p.runtime} {p.result.value('decode_latency'):.1f} ms"
            for p in others
            if p.result.value("decode_latency") is not None
        ]
        if told:
            return say(
                "of what is recommended in each engine it decodes fastest: {ms} ms, beside "
                "{others}",
                ms=f"{mine:.1f}", others=listed(told),
            )  # fmt: skip
        return say(
            "of what is recommended in each engine it decodes fastest: {ms} ms", ms=f"{mine:.1f}"
        )


def across(
    by_engine: Mapping[str, Sequence[TrialResult]],
    objectives: tuple[Objective, ...],
    limits: Limits,
) -> Across:
    """Judge results of several engines together.

    Args:
        by_engine: the results of each, its base as episode 0.
    """
    rows: list[tuple[str, TrialResult, list[float]]] = []
    taken: dict[str, int | None] = {}
    meets: dict[str, bool] = {}
    for runtime, results in by_engine.items():
        found = judge(results, objectives, limits)
        taken[runtime] = found.recommendation.episode
        meets[runtime] = found.recommendation.meets_limits is not False
        baseline = finished_baseline(results)
        for result in results:
            if (costs := _costs(result, baseline, objectives)) is not None:
                rows.append((runtime, result, costs))
    kept = _mask([costs for _, _, costs in rows], objectives)
    points = tuple(
        Point(
            runtime=runtime, result=result, on_front=on_front,
            recommended=result.episode == taken[runtime],
        )
        for (runtime, result, _), on_front in zip(rows, kept, strict=True)
    )  # fmt: skip
    return Across(points=points, chosen=_fastest(points, meets))


def _costs(
    result: TrialResult, baseline: TrialResult | None, objectives: tuple[Objective, ...]
) -> list[float] | None:
    """What a result costs in each objective; None where one is not known."""
    if result.status != "ok":
        return None
    found: list[float | None] = []
    for objective in objectives:
        if objective == "quality":
            found.append(quantity(objective, baseline).cost(result, baseline))
        elif objective in _ABSOLUTE:
            found.append(result.value(_ABSOLUTE[objective]))
    known = [cost for cost in found if cost is not None]
    return known if len(known) == len(found) else None


def _mask(costs: list[list[float]], objectives: tuple[Objective, ...]) -> list[bool]:
    if not costs or not costs[0]:
        return [False] * len(costs)
    compared = [o for o in objectives if o == "quality" or o in _ABSOLUTE]
    resolution = [quantity(objective, None).resolution for objective in compared]
    return [bool(k) for k in pareto_mask(np.array(costs), resolution=resolution)]


def _fastest(points: Sequence[Point], meets: Mapping[str, bool]) -> Point | None:
    best = [p for p in points if p.recommended]
    sound = [p for p in best if meets[p.runtime]]
    return min(sound or best, key=_latency, default=None)


def _latency(point: Point) -> float:
    found = point.result.value("decode_latency")
    return math.inf if found is None else found
