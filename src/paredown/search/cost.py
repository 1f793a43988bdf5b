"""What a trial will take, learned from the trials of the same methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np

from paredown.spec.result import TrialResult
from paredown.spec.strategy import Strategy

PRIOR_TRIALS = 1e-3
"""How many trials the prior (the methods of a trial take the same) counts for, per method. It is
there to decide where the trials cannot, as between two methods that only ever ran together."""


@final
@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Seconds of a trial: those of its methods, which add up, and those of its evaluation.

    Attributes:
        evaluate_s: of evaluating an artifact.
        method_s: of a step with this method, for methods that were tried.
        other_s: of a step with any other method.
        is_fitted: False until a trial with a known duration has finished; then every strategy
            is predicted to take one second, so that all cost the same.
    """

    evaluate_s: float
    method_s: dict[str, float]
    other_s: float
    is_fitted: bool

    @classmethod
    def fit(cls, history: Sequence[TrialResult]) -> Self:
        """Least squares over relative errors, drawn towards equal costs of a trial's methods.

        Relative, because methods differ by orders of magnitude: an absolute fit would know
        nothing of the cheap ones.
        """
        trials = [r for r in history if r.strategy is not None and r.wall_s > 0]
        if not trials:
            return cls(evaluate_s=1.0, method_s={}, other_s=0.0, is_fitted=False)
        evaluations = [r.evaluate_s for r in trials if r.status == "ok"]
        evaluate_s = float(np.median(evaluations)) if evaluations else 0.0
        # With the time of steps that were reused: a method is not cheap for having been run before.
        compress = np.array([max(r.compress_s + r.reused_s, 1e-3) for r in trials])
        steps = [r.strategy.steps for r in trials if r.strategy is not None]
        names = sorted({step.method for strategy in steps for step in strategy})
        uses = np.array([[sum(s.method == n for s in strategy) for n in names]
                         for strategy in steps], dtype=np.float64)  # (trials, methods)  # fmt: skip
        even = compress / uses.sum(axis=1)  # (trials,) per step
        # Per method: one scale for all would outvote the trials of a method that is much dearer.
        prior = np.array([np.median(even[column > 0]) for column in uses.T])
        weight = np.sqrt(PRIOR_TRIALS)
        rows = np.vstack([uses / compress[:, None], np.diag(weight / prior)])
        wanted = np.concatenate([np.ones(len(trials)), np.full(len(names), weight)])
        found = np.linalg.lstsq(rows, wanted, rcond=None)[0]
        seconds = np.maximum(found, compress.min() / 10)
        method_s = {name: float(s) for name, s in zip(names, seconds, strict=True)}
        usual = float(np.median(even))
        return cls(evaluate_s=evaluate_s, method_s=method_s, other_s=usual, is_fitted=True)

    def knows(self, strategy: Strategy) -> bool:
        """Whether every method of the strategy was tried."""
        return all(step.method in self.method_s for step in strategy.steps)

    def seconds(self, strategy: Strategy) -> float:
        """Predicted seconds of the whole trial."""
        steps = sum(self.method_s.get(step.method, self.other_s) for step in strategy.steps)
        return self.evaluate_s + steps


def spent(result: TrialResult) -> float:
    """Seconds that a trial is booked with; one where the record has no duration."""
    return result.booked_s or 1.0
