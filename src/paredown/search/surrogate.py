"""What untried strategies are expected to give, from the trials so far: a small linear model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np

from paredown.analysis.pareto import FloatArray, pareto_mask
from paredown.search.base import View
from paredown.search.regression import parts
from paredown.spec.result import TrialResult
from paredown.spec.strategy import Strategy

MINIMUM = 4
"""Fewest finished trials to learn from."""
RIDGE = 0.3
"""Weight of the prior (no effect) per feature, in trials."""

Feature = tuple[str, ...]


@final
@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """Logarithms of perplexity and of time per token over the baseline's, linear in what a
    strategy consists of: its methods, and each value of each parameter that differs.

    Attributes:
        features: column of each feature.
        quality: (features,) effects.
        latency: (features,) effects; None where too few trials were timed.
        error: typical (median) error of the perplexity on trials left out, as a factor minus 1.
    """

    features: dict[Feature, int]
    quality: FloatArray
    latency: FloatArray | None
    error: float

    @classmethod
    def fit(cls, history: Sequence[TrialResult]) -> Self | None:
        """Ridge regression; None until there is enough to learn from."""
        judged = _ratios(history, "perplexity")
        if len(judged) < MINIMUM:
            return None
        names = dict.fromkeys(f for strategy, _ in judged for f in parts(strategy))
        features = {feature: column for column, feature in enumerate(names)}
        quality, left_out = _ridge(judged, features)
        timed = _ratios(history, "decode_latency")
        return cls(
            features=features,
            quality=quality,
            latency=_ridge(timed, features)[0] if len(timed) >= MINIMUM else None,
            error=float(np.expm1(np.median(np.abs(left_out)))),
        )

    def expect(self, strategy: Strategy) -> tuple[float, float | None]:
        """(perplexity, time per token), each over the baseline's; None for a time not known."""
        row = _row(strategy, self.features)
        latency = None if self.latency is None else float(np.exp(row @ self.latency))
        return float(np.exp(row @ self.quality)), latency


def _ridge(
    known: Sequence[tuple[Strategy, float]], features: dict[Feature, int]
) -> tuple[FloatArray, FloatArray]:
    """(features,) effects, and (trials,) error of each trial were it left out."""
    rows = np.array([_row(strategy, features) for strategy, _ in known])
    wanted = np.array([value for _, value in known])
    inverse = np.linalg.inv(rows.T @ rows + RIDGE * np.eye(len(features)))
    effects = inverse @ rows.T @ wanted
    leverage = np.einsum("ij,jk,ik->i", rows, inverse, rows)
    return effects, (wanted - rows @ effects) / np.maximum(1.0 - leverage, 1e-6)


def shortlist(view: View, surrogate: Surrogate | None, count: int) -> list[Strategy]:
    """Up to `count` untried strategies worth a look: spread over the sizes of the expected front;
    without a surrogate, first those of methods that were not seen."""
    left = view.left
    if not left:
        return []
    if surrogate is None:
        seen = {step.method for strategy in view.started for step in strategy.steps}
        fresh = [s for s in left if any(step.method not in seen for step in s.steps)]
        return _first(fresh, left, count)
    costs = np.array([[surrogate.expect(s)[0], 1.0 / view.space.ratio(s)] for s in left])
    front = [left[i] for i in np.flatnonzero(pareto_mask(np.log(costs)))]
    front.sort(key=view.space.ratio)
    places = np.linspace(0, len(front) - 1, min(count, len(front))).round().astype(int)
    return _first([front[i] for i in places], left, count)


def _first(chosen: list[Strategy], others: list[Strategy], count: int) -> list[Strategy]:
    found: dict[str, Strategy] = {}
    for strategy in (*chosen, *others):
        if len(found) == count:
            break
        found.setdefault(strategy.hash, strategy)
    return list(found.values())


def _ratios(history: Sequence[TrialResult], name: str) -> list[tuple[Strategy, float]]:
    """Logarithm of a measurement over the baseline's, of the trials that have it."""
    finished = [result for result in history if result.status == "ok"]
    base = next((r.value(name) for r in finished if r.strategy is None), None)
    if not base or base <= 0:
        return []
    values = [(r.strategy, r.value(name)) for r in finished]
    return [(s, float(np.log(v / base))) for s, v in values if s is not None and v and v > 0]


def _row(strategy: Strategy, features: dict[Feature, int]) -> FloatArray:
    row = np.zeros(len(features))
    for feature in parts(strategy):
        if feature in features:
            row[features[feature]] = 1.0
    return row
