"""The Pareto front of an experiment: which results are worth having."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from paredown.analysis.knee import knee
from paredown.analysis.pareto import FloatArray, pareto_mask
from paredown.judge.quantities import PROMPT_KL, SCORED, finished_baseline, in_force, quantity
from paredown.judge.quantity import Quantity
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective


@dataclass(frozen=True, kw_only=True)
class ParetoFront:
    """The non-dominated results under some objectives."""

    objectives: tuple[Objective, ...]
    episodes: tuple[int, ...]
    """On the front, ascending; the baseline (0) is a candidate like any other."""
    knee: int | None
    """Episode at the bend of the front: beyond it, a little more of one costs much of another.
    None where fewer than three results are on the front."""
    compared: tuple[int, ...]
    """Episodes that finished with every objective measured."""

    def __contains__(self, result: TrialResult) -> bool:
        return result.episode in self.episodes


def find_front(results: Sequence[TrialResult], objectives: tuple[Objective, ...]) -> ParetoFront:
    """The front among the results that finished with every objective measured.

    Speed is that of the comparison with the base in turns, never a latency by itself; an optional
    objective that nothing has measured is left out.
    """
    baseline, objectives = finished_baseline(results), in_force(objectives, results)
    rows = [quantity(objective, baseline) for objective in objectives]
    costs = {
        result.episode: row
        for result in results
        if result.status == "ok" and (row := _costs(result, rows, baseline)) is not None
    }
    compared = tuple(costs)
    if not costs or not rows:
        return ParetoFront(objectives=objectives, episodes=(), knee=None, compared=())
    table = np.array(list(costs.values()))  # (results, objectives)
    # For dominance alone; the knee goes by the costs themselves.
    told = table.copy()
    if SCORED in rows:
        column = rows.index(SCORED)
        among = [result for result in results if result.episode in costs]
        told[:, column] = _ranked(table[:, column], among)
    kept = np.flatnonzero(pareto_mask(told, resolution=[row.resolution for row in rows]))
    episodes = tuple(compared[i] for i in kept)
    return ParetoFront(
        objectives=objectives,
        episodes=tuple(sorted(episodes)),
        knee=episodes[knee(np.log(table[kept]))] if len(kept) > 2 else None,
        compared=compared,
    )


def _costs(
    result: TrialResult, rows: Sequence[Quantity], baseline: TrialResult | None
) -> list[float] | None:
    """Costs in each objective, all to be minimised; None when one cannot be said."""
    values = [row.cost(result, baseline) for row in rows]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def _ranked(costs: FloatArray, results: Sequence[TrialResult]) -> FloatArray:
    """Ranks by what the scores can tell apart, and among equals by the divergence from the base.

    A hundred items tell scores apart by five points or so, the divergence of the next-token
    probabilities tells far less. Scores are equal within the median half-width of their paired
    intervals, on a grid that begins at the best, as in `pareto_mask`: so the order is transitive.

    Args:
        costs: (n,) the base's quality over each one's.
        results: n, in the same order.

    Returns:
        (n,) ranks from 1; equal where neither tells two results apart.
    """
    readings = [SCORED.over(result, None) for result in results if result.strategy is not None]
    halves = [(r.high - r.low) / 2 / r.value for r in readings if r is not None]
    logs, step = np.log(costs), math.log1p(median(halves)) if halves else 0.0
    boxes = np.floor((logs - logs.min()) / step) if step else logs
    # What has no divergence is not known to be close to the base, so it comes last of its equals.
    # On the benchmarks' own prompts where all were measured there, else on the text.
    trials = [r for r in results if r.strategy is not None]
    name = PROMPT_KL if all(r.get(PROMPT_KL) is not None for r in trials) else "kl"
    near = [0.0 if r.strategy is None else _or_infinite(r.value(name)) for r in results]
    keys = list(zip(boxes.tolist(), near, strict=True))
    order = {key: rank for rank, key in enumerate(sorted(set(keys)), start=1)}
    return np.array([float(order[key]) for key in keys])


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value
