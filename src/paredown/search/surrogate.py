"""What untried strategies are expected to give, from the trials so far: a small linear model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np

from paredown.analysis.pareto import FloatArray, pareto_mask
from paredown.search.base import View
from paredown.spec.result import TrialResult
from paredown.spec.serial import canonical
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
        quality, latency: (features,) effects.
        error: typical (median) error of the perplexity on trials left out, as a factor minus 1.
    """

    features: dict[Feature, int]
    quality: FloatArray
    latency: FloatArray
    error: float

    @classmethod
    def fit(cls, history: Sequence[TrialResult]) -> Self | None:
        """Ridge regression; None until there is enough to learn from."""
        baseline = next((r for r in history if r.strategy is None and r.status == "ok"), None)
        trials = [r for r in history if r.strategy is not None and r.status == "ok"]
        if baseline is None:
            return None
        pairs = [(r, _logs(r, baseline)) for r in trials]
        known = [(r.strategy, logs) for r, logs in pairs if r.strategy and logs is not None]
        if len(known) < MINIMUM:
            return None
        names = dict.fromkeys(f for strategy, _ in known for f in _features(strategy))
        features = {feature: column for column, feature in enumerate(names)}
        rows = np.array([_row(s, features) for s, _ in known])
        wanted = np.array([logs for _, logs in known])  # (trials, 2)
        inverse = np.linalg.inv(rows.T @ rows + RIDGE * np.eye(len(features)))
        effects = inverse @ rows.T @ wanted  # (features, 2)
        leverage = np.einsum("ij,jk,ik->i", rows, inverse, rows)
        left_out = (wanted - rows @ effects)[:, 0] / np.maximum(1.0 - leverage, 1e-6)
        return cls(
            features=features,
            quality=effects[:, 0],
            latency=effects[:, 1],
            error=float(np.expm1(np.median(np.abs(left_out)))),
        )

    def expect(self, strategy: Strategy) -> tuple[float, float]:
        """(perplexity, time per token), each over the baseline's."""
        row = _row(strategy, self.features)
        return float(np.exp(row @ self.quality)), float(np.exp(row @ self.latency))


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


def _logs(result: TrialResult, baseline: TrialResult) -> tuple[float, float] | None:
    ratios = []
    for name in ("perplexity", "decode_latency"):
        mine, base = result.value(name), baseline.value(name)
        if mine is None or base is None or mine <= 0 or base <= 0:
            return None
        ratios.append(float(np.log(mine / base)))
    return ratios[0], ratios[1]


def _features(strategy: Strategy) -> list[Feature]:
    found: list[Feature] = []
    for step in strategy.steps:
        found.append((step.method,))
        found += [(step.method, name, canonical(v)) for name, v in step.params.items()]
    return found


def _row(strategy: Strategy, features: dict[Feature, int]) -> FloatArray:
    row = np.zeros(len(features))
    for feature in _features(strategy):
        if feature in features:
            row[features[feature]] = 1.0
    return row
