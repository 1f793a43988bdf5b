"""The surrogate policy: the strategy that is expected to widen the front most per second."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self, final

import numpy as np

from paredown.analysis.pareto import FloatArray
from paredown.judge.quantities import QUANTITIES
from paredown.search.base import Decision, Policy, View
from paredown.search.outlook import Outlook
from paredown.spec.run import OBJECTIVES, Objective

DRAWS = 16
"""Outcomes imagined of each strategy."""
POINTS, KEPT = 4096, 512
"""Points thrown into the box of trade-offs, and most of those that no trial covers that are used:
the share of them that a strategy would cover is its gain."""


@final
@dataclass(frozen=True, kw_only=True)
class Expected(Policy):
    """The first default; then the strategy with the highest expected gain per second.

    Its size is known before it runs. What it loses in quality, and its speed and memory, are
    forecast with an error from the trials so far (`Outlook`). The gain is that in
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
        outlook = Outlook.of(view, self.objectives)
        if outlook is None:
            reason = "nothing to learn from yet: next in the order of the space"
            return view.following(reason=reason, policy=self.name)
        rng = np.random.default_rng(view.seed(self.seed, self.name))
        gain = expected_gains(outlook, rng)
        seconds = np.array([view.costs.seconds(strategy) for strategy in outlook.strategies])
        best = int(np.argmax(gain / seconds))
        decision = view.decide(outlook.strategies[best], reason=self._reason(gain, seconds, best),
                               policy=self.name)  # fmt: skip
        return _with_expectation(decision, view, outlook, best)

    def _reason(self, gain: FloatArray, seconds: FloatArray, best: int) -> str:
        if gain[best] <= 0:
            return "no gain is expected of anything: next in the order of the space"
        return (
            f"expected to add most per second: {gain[best]:.2%} of the box of trade-offs in "
            f"{seconds[best]:.0f} s"
        )


def expected_gains(outlook: Outlook, rng: np.random.Generator) -> FloatArray:
    """(strategies,) expected gain, as a share of the box between the axes' ends."""
    names = outlook.axes
    ends = np.array([(math.log(QUANTITIES[n].best), math.log(QUANTITIES[n].worst)) for n in names])
    low, span = ends[:, 0], ends[:, 1] - ends[:, 0]
    points = rng.random((POINTS, len(names)))
    points = points[~(points >= (0.0 - low) / span).all(axis=1)]  # the baseline's share
    for score in outlook.seen:
        if score.violation == 0:
            place = (np.array(score.costs) - low) / span
            points = points[~(points >= place).all(axis=1)]
    # Of the box, what nothing covers yet; the points that are kept stand for all of it.
    weight = len(points) / POINTS
    points = points[:KEPT]
    covered = np.zeros(len(outlook.strategies))
    for _ in range(DRAWS):
        logs, allowed = _imagined(outlook, rng)
        place = (logs - low) / span
        inside = np.ones((len(covered), len(points)), dtype=bool)
        # Axis by axis, so that no (strategies, points, axes) array is made.
        for axis in range(len(names)):
            inside &= points[None, :, axis] >= place[:, axis, None]
        covered += inside.mean(axis=1) * allowed if len(points) else 0.0
    return weight * covered / DRAWS


def _imagined(outlook: Outlook, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """(strategies, axes) logarithms of one outcome, and (strategies,) 1 where limits allow it.

    One deviate for all strategies (common random numbers): it is their differences that decide.
    And one for the quality of the text and that which the user named: they fall together.
    """
    drawn = dict.fromkeys((*outlook.axes, *outlook.forecasts), 0.0)
    deviates = {name: rng.standard_normal() for name in drawn}
    logs = {n: found.mean + found.error * deviates[n] for n, found in outlook.forecasts.items()}
    named = None
    if outlook.named is not None:
        shared = deviates.get("quality")
        named = outlook.named.mean + outlook.named.error * (
            rng.standard_normal() if shared is None else shared
        )
    table = np.stack([logs[name] for name in outlook.axes], axis=1)
    return table, outlook.allowed(logs, named)


def _with_expectation(decision: Decision, view: View, outlook: Outlook, best: int) -> Decision:
    """The decision with the measurements that were forecast."""
    baseline = next((r for r in view.history if r.strategy is None), None)
    expected = dict(decision.expected or {})
    for name, found in outlook.forecasts.items():
        measurement = QUANTITIES[name].measurement
        base = None if baseline is None else baseline.value(measurement)
        if name != "size" and base is not None:
            expected[measurement] = base * math.exp(float(found.mean[best]))
    return replace(decision, expected=expected)
