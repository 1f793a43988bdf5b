"""The surrogate policy: the strategy that is expected to widen the front most per second."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self, final

import numpy as np

from paredown.analysis.pareto import FloatArray
from paredown.search.base import Decision, Policy, View
from paredown.search.regression import Forecast, forecast, rows_of
from paredown.search.score import AXES, Score, measured, scores
from paredown.spec.run import OBJECTIVES, Objective
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits

DRAWS = 16
"""Outcomes imagined of each strategy."""
POINTS, KEPT = 4096, 512
"""Points thrown into the box of trade-offs, and most of those that no trial covers that are used:
the share of them that a strategy would cover is its gain."""
BEYOND = 1.5
"""Losses count up to this multiple of the end of their axis (both as logarithms): how far beyond
it something is matters to nobody, and would only bend the model."""


@final
@dataclass(frozen=True, kw_only=True)
class Expected(Policy):
    """The first default; then the strategy with the highest expected gain per second.

    Its size is known before it runs. What it loses in quality, and its speed and memory, are
    forecast with an error from the trials so far (`regression.forecast`). The gain is that in
    hypervolume, within the limits, averaged over imagined outcomes: so what is little known, but
    could be good, is tried, too.

    Attributes:
        seed: of the run.
        objectives: what to trade off.

    Source: expected hypervolume improvement, Emmerich, Giannakoglou, Naujoks 2006, "Single- and
    multiobjective evolutionary optimization assisted by Gaussian random field metamodels", by
    Monte Carlo, per second as in Snoek, Larochelle, Adams 2012, "Practical Bayesian optimization
    of machine learning algorithms", section 3.2.
    """

    name: ClassVar[str] = "surrogate"
    seed: int
    objectives: tuple[Objective, ...] = OBJECTIVES

    @classmethod
    def create(cls, *, seed: int, objectives: tuple[Objective, ...]) -> Self:
        return cls(seed=seed, objectives=objectives)

    def choose(self, view: View) -> Decision:
        if (first := view.opened_by(self.name, spread=True)) is not None:
            return first
        names = measured(view.history, self.objectives)
        if not names:
            reason = "nothing to learn from yet: next in the order of the space"
            return view.decide(view.left[0], reason=reason, policy=self.name)
        seen = scores(view.history, names, view.limits)
        left = view.left
        guess = _forecasts(seen, names, view, left)
        rng = np.random.default_rng(view.seed(self.seed, self.name))
        gain = _gains(seen, names, view, guess, rng)
        seconds = np.array([view.costs.seconds(strategy) for strategy in left])
        best = int(np.argmax(gain / seconds))
        decision = view.decide(left[best], reason=self._reason(gain, seconds, best),
                               policy=self.name)  # fmt: skip
        return _with_expectation(decision, view, guess, best)

    def _reason(self, gain: FloatArray, seconds: FloatArray, best: int) -> str:
        if gain[best] <= 0:
            return "no gain is expected of anything: next in the order of the space"
        return (
            f"expected to add most per second: {gain[best]:.2%} of the box of trade-offs in "
            f"{seconds[best]:.0f} s"
        )


Guess = dict[Objective, Forecast]


def _forecasts(
    seen: list[Score], names: tuple[Objective, ...], view: View, left: list[Strategy]
) -> Guess:
    """Of every measured objective, for each strategy that may be proposed."""
    known = [score for score in seen if score.strategy.hash in view.space.by_hash]
    rows = rows_of(view.space, [s.strategy for s in known]) if known else None
    new = rows_of(view.space, left)
    exact = -np.log([view.space.ratio(strategy) for strategy in left])
    found: Guess = {}
    for column, name in enumerate(names):
        if name == "size":
            found[name] = Forecast(mean=exact, error=np.zeros(len(left)))
            continue
        end = BEYOND * math.log(AXES[name].worst)
        values = [end if "failed" in s.violations else min(s.costs[column], end) for s in known]
        seen_rows = np.zeros((0, new.shape[1])) if rows is None else rows
        found[name] = forecast(seen_rows, np.array(values, dtype=np.float64), new)
    return found


def _gains(
    seen: list[Score],
    names: tuple[Objective, ...],
    view: View,
    guess: Guess,
    rng: np.random.Generator,
) -> FloatArray:
    """(strategies,) expected gain, as a share of the box between the axes' ends."""
    ends = np.array([(math.log(AXES[n].best), math.log(AXES[n].worst)) for n in names])
    low, span = ends[:, 0], ends[:, 1] - ends[:, 0]
    points = rng.random((POINTS, len(names)))
    points = points[~(points >= (0.0 - low) / span).all(axis=1)]  # the baseline's share
    for score in seen:
        if score.violation == 0:
            place = (np.array(score.costs) - low) / span
            points = points[~(points >= place).all(axis=1)]
    weight = len(points) / POINTS
    points = points[:KEPT]
    strategies = len(next(iter(guess.values())).mean)
    covered = np.zeros(strategies)
    for _ in range(DRAWS):
        logs = np.stack(
            [guess[n].mean + guess[n].error * rng.standard_normal() for n in names], axis=1
        )  # (strategies, axes)
        place = (logs - low) / span
        inside = np.ones((strategies, len(points)), dtype=bool)
        for axis in range(len(names)):
            inside &= points[None, :, axis] >= place[:, axis, None]
        covered += inside.mean(axis=1) * allowed(logs, names, view.limits) if len(points) else 0.0
    return weight * covered / DRAWS


def allowed(logs: FloatArray, names: tuple[Objective, ...], limits: Limits) -> FloatArray:
    """(strategies,) 1 where imagined outcomes meet the limits that depend on them, else 0."""
    met = np.ones(len(logs))
    if limits.max_accuracy_loss is not None and "quality" in names:
        loss = 100.0 * np.expm1(logs[:, names.index("quality")])
        met *= loss <= limits.max_accuracy_loss
    if limits.min_speedup is not None and "latency" in names:
        met *= np.exp(-logs[:, names.index("latency")]) >= limits.min_speedup
    return met


def _with_expectation(decision: Decision, view: View, guess: Guess, best: int) -> Decision:
    """The decision with the measurements that were forecast."""
    baseline = next((r for r in view.history if r.strategy is None), None)
    expected = dict(decision.expected or {})
    for name, found in guess.items():
        measurement = AXES[name].measurement
        base = None if baseline is None else baseline.value(measurement)
        if name != "size" and base is not None:
            expected[measurement] = base * math.exp(float(found.mean[best]))
    return replace(decision, expected=expected)
