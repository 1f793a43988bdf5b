"""What everything that is untried is expected to measure, from the trials so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np

from paredown.analysis.pareto import FloatArray, pareto_mask
from paredown.judge.hypervolume import Score, measured, scores
from paredown.judge.limits import bounded_quality, bounds_named_quality, breaks
from paredown.judge.quantities import KEPT, QUANTITIES, bounds, finished_baseline
from paredown.search.base import Remembered, View
from paredown.search.regression import PRIOR_SCALE, Forecast, forecast, rows_of
from paredown.spec.run import Objective
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits

USUAL_COST = 0.2
"""Scale of the logarithms of speed, memory and energy before any trial. They move far less than a
loss of quality does: were they thought as uncertain, the first trials would go after them."""
BEYOND = 1.5
"""Losses count up to this multiple of the end of their axis (both as logarithms): how far beyond
it something is matters to nobody, and would only bend the model."""


@final
@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Forecasts of all strategies that may be proposed.

    Attributes:
        view: what it is drawn from; its `left` are the strategies, in this order.
        axes: the objectives that every trial has measured.
        seen: the trials, by the costs of these.
        informed: whether any trial or memory is behind it.
        forecasts: of the axes, and of what limits bound besides; logarithms over the baseline's.
        named: of the quality that the user named, where a limit bounds it; None where quality is
            the text's perplexity.
        scored: whether any trial or memory of that quality is behind `named`; else it follows from
            the text alone.
    """

    view: View
    axes: tuple[Objective, ...]
    seen: list[Score]
    informed: bool
    forecasts: dict[Objective, Forecast]
    named: Forecast | None
    scored: bool

    @property
    def strategies(self) -> list[Strategy]:
        """What was forecast."""
        return self.view.left

    @classmethod
    def of(cls, view: View, objectives: tuple[Objective, ...]) -> Self | None:
        """None where nothing was measured, or nothing is left.

        Sizes are known exactly; the rest is learned. What has failed counts as the worst in
        quality; of its speed and memory nothing is known. What was forecast in this turn already
        (`view.outlook`) is not forecast again.
        """
        axes = measured(view.history, objectives)
        if not axes or not view.left:
            return None
        bounded = tuple(b.objective for b in bounds(view.limits) if not b.limit.absolute)
        names = measured(view.history, tuple(dict.fromkeys((*axes, *bounded))))
        known = _Known.of(view, names)
        done = _narrowed(view)
        named = None
        if bounds_named_quality(finished_baseline(view.history), view.limits):
            named = done.named or known.named_quality()
        return cls(
            view=view,
            axes=axes,
            seen=scores(view.history, axes, view.limits),
            informed=bool(known.here or known.told),
            forecasts={name: done.forecasts.get(name) or known.forecast(name) for name in names},
            named=named,
            scored=bool(known.scored_here() or known.scored_there()),
        )

    @property
    def caveat(self) -> str:
        """What is to be said of a limit that is judged by something else than it bounds."""
        if self.named is None or self.scored:
            return ""
        return "the loss of the named quality is forecast from the text: nothing was scored yet"

    def allowed(self, logs: Mapping[Objective, FloatArray], named: FloatArray | None) -> FloatArray:
        """(strategies,) 1 where such outcomes meet the limits that depend on them, else 0.

        Args:
            logs: (strategies,) logarithms over the baseline's, of each forecast.
            named: the same of the named quality, where one is bounded.
        """
        judged = dict(logs) if named is None else {**logs, "quality": named}
        table = np.stack(list(judged.values()), axis=1)
        return allowed(table, tuple(judged), self.view.limits, named=named is not None)


def allowed(
    logs: FloatArray, names: tuple[Objective, ...], limits: Limits, *, named: bool = False
) -> FloatArray:
    """(strategies,) 1 where outcomes, `logs` over the baseline's, meet the limits that depend on
    them, else 0. `named`: as in `judge.limits.breaks`."""
    if limits == Limits():
        return np.ones(len(logs))
    over = [dict(zip(names, row, strict=True)) for row in np.exp(logs).tolist()]
    return np.array([0.0 if breaks(one, limits, named=named) else 1.0 for one in over])


@dataclass(frozen=True, kw_only=True)
class _Narrowed:
    """What an earlier outlook of the same turn has forecast of what is left now."""

    forecasts: dict[Objective, Forecast]
    named: Forecast | None


def _narrowed(view: View) -> _Narrowed:
    earlier = view.outlook
    if earlier is None or not _same_turn(earlier.view, view):
        return _Narrowed(forecasts={}, named=None)
    places = {strategy.hash: place for place, strategy in enumerate(earlier.strategies)}
    kept = [places[strategy.hash] for strategy in view.left]
    return _Narrowed(
        forecasts={name: found.at(kept) for name, found in earlier.forecasts.items()},
        named=None if earlier.named is None else earlier.named.at(kept),
    )


def _same_turn(earlier: View, view: View) -> bool:
    """Whether all that forecasts depend on is the same, and nothing is left that was not."""
    return (
        earlier.history is view.history
        and earlier.space is view.space
        and earlier.remembered is view.remembered
        and earlier.limits == view.limits
        and {s.hash for s in view.left} <= {s.hash for s in earlier.left}
    )


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What forecasts follow from.

    Attributes:
        names: what every trial has measured.
        here: the trials of strategies of the space, by the costs of `names`.
        told: what is remembered of strategies of the space.
    """

    view: View
    names: tuple[Objective, ...]
    here: list[Score]
    told: list[Remembered]

    @classmethod
    def of(cls, view: View, names: tuple[Objective, ...]) -> Self:
        seen = scores(view.history, names, view.limits)
        return cls(
            view=view,
            names=names,
            here=[score for score in seen if score.strategy in view.space],
            told=[memory for memory in view.remembered if memory.strategy in view.space],
        )

    def forecast(self, name: Objective) -> Forecast:
        if name == "size":
            # The logarithm of the size over the base's.
            exact = -np.log([self.view.space.ratio(strategy) for strategy in self.view.left])
            return Forecast(mean=exact, error=np.zeros(len(self.view.left)))
        end = _end(name)
        column = self.names.index(name)
        here = [
            (s.strategy, end if "failed" in s.violations else min(s.costs[column], end))
            for s in self.here
            if name == "quality" or "failed" not in s.violations
        ]
        scale = PRIOR_SCALE if name == "quality" else USUAL_COST
        return self._learned(here, _elsewhere(self.told, name, end), scale)

    def named_quality(self) -> Forecast:
        """Of what a limit bounds. What the text lost, here and elsewhere, stands beside it as one
        model stands beside another: the kernel weighs how much the one says of the other."""
        end = _end("quality")
        failed = [(s.strategy, end) for s in self.here if "failed" in s.violations]
        text = [(s.strategy, min(s.costs[self.names.index("quality")], end))
                for s in self.here
                if "quality" in self.names and "failed" not in s.violations]  # fmt: skip
        remembered = _elsewhere([m for m in self.told if m.kept is None], "quality", end)
        there = [*self.scored_there(), *text, *remembered]
        return self._learned([*self.scored_here(), *failed], there, PRIOR_SCALE)

    def scored_here(self) -> list[tuple[Strategy, float]]:
        """Trials that were scored, by the logarithm of what a limit bounds over the base's."""
        baseline, end = finished_baseline(self.view.history), _end("quality")
        return [
            (trial.strategy, max(-end, min(math.log(over), end)))
            for trial in self.view.trials
            if trial.strategy is not None
            and trial.strategy in self.view.space
            and trial.status == "ok"
            and trial.get(KEPT) is not None
            and (over := bounded_quality(trial, baseline, self.view.limits)) is not None
            and over > 0
        ]

    def scored_there(self) -> list[tuple[Strategy, float]]:
        """The same of what is remembered."""
        end = _end("quality")
        return [
            (memory.strategy, max(-end, min(-math.log(memory.kept), end)))
            for memory in self.told
            if memory.kept is not None
        ]

    def _learned(
        self, here: list[tuple[Strategy, float]], there: list[tuple[Strategy, float]], scale: float
    ) -> Forecast:
        new = rows_of(self.view.space, self.view.left)
        elsewhere = _points(self.view, there) if there else None
        return forecast(*_points(self.view, here), new, elsewhere=elsewhere, scale=scale)


def _end(name: Objective) -> float:
    return BEYOND * math.log(QUANTITIES[name].worst)


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
