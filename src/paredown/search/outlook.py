"""What everything that is untried is expected to measure, from the trials so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np

from paredown.analysis.pareto import FloatArray, pareto_mask
from paredown.judge.hypervolume import Score, measured, scores
from paredown.judge.quantities import QUANTITIES
from paredown.search.base import Remembered, View
from paredown.search.regression import Forecast, forecast, rows_of
from paredown.spec.run import Objective
from paredown.spec.strategy import Strategy

BEYOND = 1.5
"""Losses count up to this multiple of the end of their axis (both as logarithms): how far beyond
it something is matters to nobody, and would only bend the model."""


@final
@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Forecasts of all strategies that may be proposed.

    Attributes:
        strategies: the view's, in its order.
        seen: the trials that it is drawn from.
        informed: whether any trial or memory is behind it.
        forecasts: of each objective that every trial has measured; logarithms over the baseline's.
    """

    strategies: list[Strategy]
    seen: list[Score]
    informed: bool
    forecasts: dict[Objective, Forecast]

    @classmethod
    def of(cls, view: View, objectives: tuple[Objective, ...]) -> Self | None:
        """None where nothing was measured, or nothing is left.

        Sizes are known exactly; the rest is learned. What has failed counts as the worst in
        quality; of its speed and memory nothing is known.
        """
        names = measured(view.history, objectives)
        if not names or not view.left:
            return None
        seen = scores(view.history, names, view.limits)
        known = [score for score in seen if score.strategy in view.space]
        told = [r for r in view.remembered if r.strategy in view.space]
        new = rows_of(view.space, view.left)
        found: dict[Objective, Forecast] = {}
        for column, name in enumerate(names):
            if name == "size":
                # The logarithm of the size over the base's.
                exact = -np.log([view.space.ratio(strategy) for strategy in view.left])
                found[name] = Forecast(mean=exact, error=np.zeros(len(view.left)))
                continue
            end = BEYOND * math.log(QUANTITIES[name].worst)
            here = [
                (s.strategy, end if "failed" in s.violations else min(s.costs[column], end))
                for s in known
                if name == "quality" or "failed" not in s.violations
            ]
            there = _elsewhere(told, name, end)
            found[name] = forecast(
                *_points(view, here), new, elsewhere=_points(view, there) if there else None
            )
        informed = bool(known or told)
        return cls(strategies=view.left, seen=seen, informed=informed, forecasts=found)


def _elsewhere(
    told: Sequence[Remembered], name: Objective, end: float
) -> list[tuple[Strategy, float]]:
    """What is remembered of an objective. It may come from other people: it is kept in bounds."""
    found = []
    for memory in told:
        if memory.failed and name == "quality":
            found.append((memory.strategy, end))
        elif name in memory.over:
            found.append((memory.strategy, max(-end, min(math.log(memory.over[name]), end))))
    return found


def _points(view: View, known: list[tuple[Strategy, float]]) -> tuple[FloatArray, FloatArray]:
    """(n, features) and (n,) values."""
    rows = rows_of(view.space, [strategy for strategy, _ in known])
    return rows, np.array([value for _, value in known], dtype=np.float64)


def shortlist(view: View, outlook: Outlook | None, count: int) -> list[Strategy]:
    """Up to `count` untried strategies worth a look: spread over the sizes of the expected front;
    before anything is known, first those of methods that were not seen."""
    left = view.left
    if not left:
        return []
    if outlook is None or not outlook.informed or "quality" not in outlook.forecasts:
        seen = {step.method for strategy in view.started for step in strategy.steps}
        fresh = [s for s in left if any(step.method not in seen for step in s.steps)]
        return _first(fresh, left, count)
    sizes = -np.log([view.space.ratio(strategy) for strategy in left])
    mask = pareto_mask(np.stack([outlook.forecasts["quality"].mean, sizes], axis=1))
    front = sorted((left[i] for i in np.flatnonzero(mask)), key=view.space.ratio)
    places = np.linspace(0, len(front) - 1, min(count, len(front))).round().astype(int)
    return _first([front[i] for i in places], left, count)


def _first(chosen: list[Strategy], others: list[Strategy], count: int) -> list[Strategy]:
    found: dict[str, Strategy] = {}
    for strategy in (*chosen, *others):
        if len(found) == count:
            break
        found.setdefault(strategy.hash, strategy)
    return list(found.values())
