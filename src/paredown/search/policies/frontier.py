"""The frontier policy: the size at which a plan of its own would widen the trade-offs most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import ClassVar, Self, final

import numpy as np

from paredown.analysis.pareto import FloatArray
from paredown.methods.base import Kind
from paredown.methods.shared.units import KL_PER_BIT, USUAL_BPW, USUAL_KL
from paredown.search.aim import PLANNER
from paredown.search.base import Decision, Policy, View, end
from paredown.search.index import kind_of
from paredown.search.outlook import Outlook
from paredown.search.policies.surrogate import expected_gains
from paredown.search.regression import Forecast
from paredown.spec.result import TrialResult
from paredown.spec.run import OBJECTIVES, Objective
from paredown.spec.strategy import Strategy
from paredown.spec.units import human_bytes

OVER_UNIFORM, UNIFORM_ERROR = 0.65, 0.4
"""KL of the best plan over that of the best uniform model of equal bytes, as `docs/frontier.md` has
it, and the standard error of its logarithm: what a uniform trial tells of plans."""
PLAN_ERROR = 0.12
"""Standard error of the logarithm of a plan's KL around a line in its bits."""
LEVEL_ERROR, SLOPE_ERROR = 1.5, 0.25
"""The same of the line's level and slope before any trial."""
TEXT_SHARE = 0.9
"""Rise of the loss on a text over the KL, before any trial: 0.8 to 1.0 in the shipped table."""


Point = tuple[float, float]
"""Bits per weight, and KL in nats per token."""


@final
@dataclass(frozen=True, kw_only=True)
class Line:
    """log KL of the best plan against its bits per weight: a normal posterior.

    Attributes:
        mean: (2,) level at `USUAL_BPW` bits, and slope per bit.
        covariance: (2, 2) of them.
        plans, uniform: trials behind it.
    """

    mean: FloatArray
    covariance: FloatArray
    plans: int
    uniform: int

    @classmethod
    def through(
        cls, plans: Sequence[tuple[float, float]], uniform: Sequence[tuple[float, float]]
    ) -> Self:
        """The line through what was measured of plans and of uniform models; KLs > 0.

        Source: Bayesian linear regression with known noise, Bishop 2006, "Pattern recognition and
        machine learning", equations 3.50 and 3.51.
        """
        prior = np.diag([LEVEL_ERROR**-2.0, SLOPE_ERROR**-2.0])
        usual = np.array([math.log(USUAL_KL), -math.log(KL_PER_BIT)])
        seen = [(b, math.log(kl), PLAN_ERROR) for b, kl in plans]
        seen += [(b, math.log(OVER_UNIFORM * kl), UNIFORM_ERROR) for b, kl in uniform]
        rows = np.array([[1.0, bits - USUAL_BPW] for bits, _, _ in seen]).reshape(-1, 2)
        values = np.array([value for _, value, _ in seen])
        weights = np.array([error**-2.0 for _, _, error in seen])
        covariance = np.linalg.inv(prior + (rows.T * weights) @ rows)
        mean = covariance @ (prior @ usual + (rows.T * weights) @ values)
        return cls(mean=mean, covariance=covariance, plans=len(plans), uniform=len(uniform))

    def at(self, bits: FloatArray) -> Forecast:
        """(n,) logarithms of the KL at so many bits per weight."""
        rows = np.stack([np.ones_like(bits), bits - USUAL_BPW], axis=1)
        variance = ((rows @ self.covariance) * rows).sum(axis=1) + PLAN_ERROR**2
        return Forecast(mean=np.asarray(rows @ self.mean), error=np.sqrt(variance))

    def bits(self, kl: float) -> float:
        """Bits per weight at which the line has a KL."""
        level, slope = self.mean
        return float(USUAL_BPW + (math.log(kl) - level) / slope)


@final
@dataclass(frozen=True, kw_only=True)
class Frontier(Policy):
    """The plan that is expected to add most hypervolume.

    What plans lose is forecast by one line, log KL against bits per weight, through the plans that
    were measured and, with a larger error, through the best uniform models: far less is unknown
    than of strategies that have nothing in common. Speed and memory are forecast as the surrogate
    does. All plans take about the same time, so the most gain is the most gain per second.

    Attributes:
        seed: of the run.
        objectives: what to trade off.
    """

    name: ClassVar[str] = "frontier"
    seed: int
    objectives: tuple[Objective, ...] = OBJECTIVES

    def is_ready(self, view: View) -> bool:
        """After the first quantized model was measured, as long as a plan is left to try."""
        return bool(_measured(view)) and any(map(_is_plan, view.left))

    def choose(self, view: View) -> Decision:
        plans = [strategy for strategy in view.left if _is_plan(strategy)]
        others = {s.hash for s in view.untried} - {s.hash for s in plans}
        outlook = Outlook.of(replace(view, shunned={*view.shunned, *others}), self.objectives)
        if outlook is None:
            return end("no plan is left to try", policy=self.name)
        line = _line(view)
        outlook, logs = _foreseen(view, outlook, line)
        gain = expected_gains(outlook, np.random.default_rng(view.seed(self.seed, self.name)))
        best = int(np.argmax(gain))
        kl, spread = math.exp(logs.mean[best]), math.exp(1.96 * logs.error[best])
        bits = _bits(view, outlook, best)
        promise = "no gain of any plan"
        if gain[best] > 0:
            promise = f"most gain, {gain[best]:.2%} of the box of trade-offs"
        reason = (
            f"bits layer by layer at {bits:.2f} bits per weight "
            f"({human_bytes(bits / 8 * _parameters(view))}): a KL of {kl:.2g} is expected, within "
            f"a factor of {spread:.1f} (measured: plans {line.plans}, uniform models "
            f"{line.uniform}), and {promise}"
        )
        return view.decide(outlook.strategies[best], reason=reason, policy=self.name)


def _is_plan(strategy: Strategy) -> bool:
    """Whether it is a plan that is found for a size or a loss, and nothing else."""
    return len(strategy.steps) == 1 and strategy.steps[0].method == PLANNER


def _asked_kl(strategy: Strategy) -> float | None:
    kl = strategy.steps[0].params.get("kl")
    return kl if isinstance(kl, float) else None


def _measured(view: View) -> list[tuple[TrialResult, float, float]]:
    """Trials that quantized alone, with bits per weight and KL."""
    found = []
    for result in view.trials:
        bits, kl = result.value("bits_per_weight"), result.value("kl")
        steps = () if result.strategy is None else result.strategy.steps
        alone = len(steps) == 1 and kind_of(steps[0].method) is Kind.QUANTIZATION
        if alone and result.status == "ok" and bits and kl and kl > 0:
            found.append((result, bits, kl))
    return found


def _line(view: View) -> Line:
    seen = _measured(view)
    plans = [(b, kl) for r, b, kl in seen if r.strategy is not None and _is_plan(r.strategy)]
    uniform = [(b, kl) for r, b, kl in seen if r.strategy is not None and not _is_plan(r.strategy)]
    # Of uniform models those that no other beats in both: a bad method says nothing of plans.
    best = [
        u for u in uniform if not any(o != u and o[0] <= u[0] and o[1] <= u[1] for o in uniform)
    ]
    return Line.through(plans, best)


def _foreseen(view: View, outlook: Outlook, line: Line) -> tuple[Outlook, Forecast]:
    """The outlook with what the line says of quality and size; and the logarithms of the KL."""
    parameters, baseline = _parameters(view), view.space.baseline_bytes
    bits = np.array([8.0 * view.space.predicted_bytes(s) / parameters for s in outlook.strategies])
    logs = line.at(bits)
    off = _off(view)
    for place, strategy in enumerate(outlook.strategies):
        if (kl := _asked_kl(strategy)) is not None:
            # It ends where its own forecast has that KL; how wrong such forecasts were is known.
            logs.mean[place], logs.error[place] = math.log(kl) + off, PLAN_ERROR
            bits[place] = line.bits(kl * math.exp(off))
    share = 1.0 if view.limits.kl is not None else _text_share(view)
    kl_mean = np.exp(logs.mean)
    # Beyond a KL of a few nats the model is ruined, and how much so does not matter.
    quality = Forecast(mean=share * kl_mean, error=share * kl_mean * np.minimum(logs.error, 2.0))
    size = Forecast(mean=np.log(bits / 8 * parameters / baseline), error=np.zeros(len(bits)))
    forecasts = outlook.forecasts | {"quality": quality, "size": size}
    known = {name: found for name, found in forecasts.items() if name in outlook.forecasts}
    return replace(outlook, forecasts=known), logs


def _off(view: View) -> float:
    """Mean of log (KL measured / KL asked for) over the plans that were asked for a KL."""
    pairs = [
        math.log(kl / asked)
        for result, _, kl in _measured(view)
        if result.strategy is not None
        and _is_plan(result.strategy)
        and (asked := _asked_kl(result.strategy)) is not None
    ]
    return sum(pairs) / len(pairs) if pairs else 0.0


def _text_share(view: View) -> float:
    """By how much of the KL the loss on the text rises, as it was with these trials."""
    seen = [
        math.log(ratio) / kl
        for result, _, kl in _measured(view)
        if (ratio := result.value("perplexity_ratio")) is not None and ratio > 0 and kl > 0.02
    ]
    return min(1.5, max(0.5, median(seen))) if seen else TEXT_SHARE


def _parameters(view: View) -> float:
    """Of the uncompressed model, from what was measured of any trial."""
    result, bits, _ = _measured(view)[0]
    size = result.value("size")
    if size is None:
        raise AssertionError("bits per weight were counted from a size")
    return 8.0 * size / bits


def _bits(view: View, outlook: Outlook, place: int) -> float:
    size = outlook.forecasts["size"].mean[place] if "size" in outlook.forecasts else None
    if size is None:
        return 8.0 * view.space.predicted_bytes(outlook.strategies[place]) / _parameters(view)
    return float(8.0 * math.exp(size) * view.space.baseline_bytes / _parameters(view))
