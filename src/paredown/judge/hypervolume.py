"""What each trial has added: costs over the baseline's, broken limits, hypervolume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from paredown.analysis.hypervolume import hypervolume
from paredown.analysis.pareto import pareto_mask
from paredown.judge.limits import violations
from paredown.judge.quantities import PROMPT_KL, QUANTITIES, SCORED
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits

Row = tuple[float, ...]


FAILED = 1e6
"""Violation of a failed trial: worse than any broken limit."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A finished trial: its costs, and by how much it breaks each limit.

    Attributes:
        strategy: what was tried.
        costs: logarithm of each measured objective over the baseline's.
        violations: by limit; > 0 where it is broken.
        episode: of the trial.
    """

    strategy: Strategy
    costs: Row
    violations: dict[str, float]
    episode: int

    @property
    def violation(self) -> float:
        """Sum over the broken limits; 0 for a feasible trial."""
        return sum(max(v, 0.0) for v in self.violations.values())


def measured(
    history: Sequence[TrialResult], objectives: tuple[Objective, ...]
) -> tuple[Objective, ...]:
    """The objectives that every successful trial has measured."""
    finished = [result for result in history if result.status == "ok"]
    unit = _unit(finished)
    return tuple(
        objective
        for objective in objectives
        if finished and all(QUANTITIES[objective].cost(r, unit) is not None for r in finished)
    )


def _unit(finished: Sequence[TrialResult]) -> TrialResult | None:
    """What costs are relative to: the baseline, else the first that finished."""
    first = finished[0] if finished else None
    return next((r for r in finished if r.strategy is None), first)


def scores(
    history: Sequence[TrialResult], objectives: tuple[Objective, ...], limits: Limits
) -> list[Score]:
    """All trials but the baseline, in order. A failed one gets the worst cost seen of each
    objective; `objectives` are those that `measured` found."""
    finished = [result for result in history if result.status == "ok"]
    baseline = next((r for r in finished if r.strategy is None), None)
    unit = baseline or finished[0]
    costs = {result.episode: _costs(result, unit, objectives) for result in finished}
    worst = tuple(max(column) for column in zip(*costs.values(), strict=True))
    found = []
    for result in history:
        if result.strategy is None:
            continue
        failed = result.status == "failed"
        broken = {} if failed or baseline is None else violations(result, baseline, limits)
        found.append(
            Score(
                strategy=result.strategy,
                costs=worst if failed else costs[result.episode],
                violations={"failed": FAILED} if failed else broken,
                episode=result.episode,
            )
        )
    return found


def gains(
    history: Sequence[TrialResult], objectives: tuple[Objective, ...], limits: Limits
) -> list[float]:
    """Hypervolume that each trial (all but the baseline, in order) added when it finished.

    As a share of the box between `best` and `worst` of every measured axis. Zero for failed
    trials, for those that break a limit, and for what is better by less than the resolution. What
    the baseline covers is nobody's gain.
    """
    names = measured(history, objectives)
    if not names:
        return [0.0 for result in history if result.strategy is not None]
    finished = [result for result in history if result.status == "ok"]
    unit = next((r for r in finished if r.strategy is None), finished[0])
    front: tuple[Row, ...] = ()
    found = [0.0] * len(history)
    order = sorted(range(len(history)), key=lambda i: history[i].strategy is not None)
    for i in order:  # the baseline first
        result = history[i]
        allowed = result.strategy is None or max(violations(result, unit, limits).values(),
                                                 default=0.0) <= 0  # fmt: skip
        if result.status == "ok" and allowed:
            found[i], front = _add(front, _place(result, unit, names))
    return [g for g, result in zip(found, history, strict=True) if result.strategy is not None]


def covered(
    history: Sequence[TrialResult], objectives: tuple[Objective, ...], limits: Limits
) -> float:
    """Hypervolume that all trials together added to the baseline's: the sum of `gains`."""
    return sum(gains(history, objectives, limits))


def _over(result: TrialResult, unit: TrialResult, objective: Objective) -> float:
    """One objective over the unit's.

    Quality is seen through the divergence from the base on the benchmarks' own prompts where it was
    measured, as a ratio of probabilities, else through the text, which everything has: both are
    fine where scores are coarse. But what the scores have surely lost counts at least, or a model
    that forgot the benchmark would gain by its text.
    """
    row = QUANTITIES[objective]
    mine, base = row.cost(result, unit), row.cost(unit, unit)
    if mine is None or base is None:
        raise AssertionError(objective)
    scored = SCORED.over(result, unit) if objective == "quality" else None
    if scored is None:
        return mine / base
    near = result.get(PROMPT_KL)
    return max(mine / base if near is None else math.exp(near.value), scored.low)


def _costs(result: TrialResult, unit: TrialResult, names: tuple[Objective, ...]) -> Row:
    return tuple(math.log(_over(result, unit, name)) for name in names)


def _place(result: TrialResult, unit: TrialResult, names: tuple[Objective, ...]) -> Row:
    """A result on the axes: 0 at `best`, 1 at `worst`, rounded to the resolution."""
    place = []
    for name, cost in zip(names, _costs(result, unit, names), strict=True):
        axis = QUANTITIES[name]
        step = math.log1p(axis.resolution)
        rounded = round(cost / step) * step if step else cost
        low, high = math.log(axis.best), math.log(axis.worst)
        place.append((rounded - low) / (high - low))
    return tuple(place)


# Each proposal goes through the whole history again, of which only the last step is new.
@lru_cache(maxsize=8192)
def _add(front: tuple[Row, ...], row: Row) -> tuple[float, tuple[Row, ...]]:
    """(volume that only `row` covers, the front with it).

    Source: exclusive hypervolume, While, Bradstreet, Barone 2012, "A fast way of calculating
    exact hypervolumes" (algorithm WFG, `exclhv`).
    """
    if max(row) >= 1:  # beyond the worst end of an axis
        return 0.0, front
    box = math.prod(1.0 - x for x in row)
    if not front:
        return box, (row,)
    # The front, cut to the box of `row`: what it covers of that box is no gain.
    limited = np.maximum(np.array(front), np.array(row))  # (front, axes)
    limited = np.unique(limited[pareto_mask(limited)], axis=0)
    gain = box - hypervolume(limited, np.ones(len(row)))
    if gain <= 1e-12 * box:  # rounding
        return 0.0, front
    rows = np.array([*front, row])
    return gain, tuple(front_row for front_row, kept in zip((*front, row), pareto_mask(rows),
                                                            strict=True) if kept)  # fmt: skip
