"""What a plot may have as its axes, and where the user's limits lie on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from paredown.dashboard.summary import Row, Summary
from paredown.judge.quantities import DIVERGENCE, QUANTITIES, SCORED, Bound, bounds, quantity
from paredown.judge.quantity import Quantity
from paredown.judge.words import half_width
from paredown.spec.result import Measurement, TrialResult

_COLUMNS = {
    "perplexity": "perplexity", "quality": "quality", "kl": "kl", "size": "model_size_gb",
    "decode_latency": "latency_ms", "peak_memory": "memory_gb", "energy": "energy_joules",
}  # fmt: skip
"""Measurement -> column of the history, whose numbers are those of the axis."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A measured quantity as an axis.

    Attributes:
        name: for people, and in the address.
        title: with its unit.
        column: of the history.
        measurement: that stands behind it.
        divisor: from the measurement's unit to the axis's.
        lower_is_better: its direction.
    """

    name: str
    title: str
    column: str
    measurement: str
    divisor: float = 1.0
    lower_is_better: bool = True

    def value(self, row: Row) -> float | None:
        """Of an episode; None where it was not measured."""
        return row.values.get(self.column)

    def half(self, measured: tuple[Measurement, ...]) -> float:
        """Half of the 95 % interval, in the axis's unit; 0 where no error is known."""
        found = next((m for m in measured if m.name == self.measurement), None)
        return 0.0 if found is None else half_width(found) / self.divisor


def _of(name: str, row: Quantity) -> Axis:
    return Axis(
        name=name, title=row.axis, column=_COLUMNS[row.measurement], measurement=row.measurement,
        divisor=row.divisor, lower_is_better=row.direction == "minimize",
    )  # fmt: skip


def axes(summary: Summary) -> dict[str, Axis]:
    """By name: every quantity that an episode has measured, benchmarks included."""
    scored = quantity("quality", summary.baseline) is SCORED
    # Under its own name: where benchmarks were asked for, quality is another number.
    found = [
        *([_of("quality", SCORED)] if scored else []),
        *(_of("perplexity" if n == "quality" else n, row) for n, row in QUANTITIES.items()),
        _of("KL", DIVERGENCE),
    ]
    found += [
        Axis(name=name, title=name, column=name, measurement=name, lower_is_better=False)
        for name in summary.scores
    ]
    known = {column for row in summary.rows for column in row.values}
    return {axis.name: axis for axis in found if axis.column in known}


@dataclass(frozen=True, kw_only=True)
class LimitLine:
    """A limit of the user on an axis; what is better lies on the other side of `is_upper`."""

    value: float
    text: str
    is_upper: bool


def limit_lines(summary: Summary, axis: Axis) -> list[LimitLine]:
    """The user's limits, where they lie on an axis.

    Those relative to the base need its measurement; without one they cannot be drawn, and are not.
    """
    found = []
    for bound in bounds(summary.config.limits, summary.baseline):
        if bound.quantity.measurement != axis.measurement:
            continue
        value = _on_axis(bound, summary.baseline)
        if value is not None:
            # A bound on a ratio from below is one on the size from above.
            upper = axis.lower_is_better
            found.append(LimitLine(value=value / axis.divisor, text=str(bound), is_upper=upper))
    return found


def _on_axis(bound: Bound, baseline: TrialResult | None) -> float | None:
    """In the unit of the measurement."""
    seen = _inverted(bound.limit.seen_from, bound.value)
    if seen is None:
        return None
    if bound.limit.absolute:
        return seen
    if bound.quantity.inverted and bound.quantity.paired == bound.quantity.measurement:
        return 1 / seen  # the measurement is the ratio itself
    base = None if baseline is None else baseline.value(bound.quantity.measurement)
    own = (
        None
        if baseline is None or bound.quantity.paired is None
        else baseline.get(bound.quantity.paired)
    )
    if base is None:
        return None
    # Of the base in an engine's files, whose ratio is to the model as it was given.
    return seen * base * (own.value if own is not None and bound.quantity.inverted else 1.0)


def _inverted(change: Callable[[float], float], value: float) -> float | None:
    """Where a monotonic change of unit has a value, by halving on a logarithmic scale."""
    low, high = 1e-9, 1e18
    if not min(change(low), change(high)) <= value <= max(change(low), change(high)):
        return None
    rising = change(high) > change(low)
    for _ in range(200):
        middle = math.sqrt(low * high)
        if (change(middle) < value) == rising:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)
