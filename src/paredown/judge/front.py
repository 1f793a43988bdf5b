"""The Pareto front of an experiment: which results are worth having."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paredown.analysis.knee import knee
from paredown.analysis.pareto import pareto_mask
from paredown.judge.quantities import QUANTITIES
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
    """The front among the results that finished with every objective measured."""
    costs = {
        result.episode: row
        for result in results
        if result.status == "ok" and (row := _costs(result, objectives)) is not None
    }
    compared, rows = tuple(costs), list(costs.values())
    if not rows:
        return ParetoFront(objectives=objectives, episodes=(), knee=None, compared=())
    resolution = [QUANTITIES[objective].resolution for objective in objectives]
    kept = np.flatnonzero(pareto_mask(rows, resolution=resolution))
    episodes = tuple(compared[i] for i in kept)
    return ParetoFront(
        objectives=objectives,
        episodes=tuple(sorted(episodes)),
        knee=episodes[knee(np.log([rows[i] for i in kept]))] if len(kept) > 2 else None,
        compared=compared,
    )


def _costs(result: TrialResult, objectives: tuple[Objective, ...]) -> list[float] | None:
    """Values of the objectives, all to be minimised; None when one is missing or not positive."""
    values = [QUANTITIES[objective].value(result) for objective in objectives]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None
