"""What can be judged: one row per quantity, from which everything else about it follows.

The front, the limits, the hypervolume of the search, the recommendation, and the tables of the
documentation read this table and have none of their own. Whoever adds a quantity adds a row here,
its name to `paredown.spec.run.Objective`, and, where users may bound it, a field to
`paredown.spec.target.Limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from paredown.judge.words import signed_percent, times
from paredown.spec.result import Measurement, TrialResult
from paredown.spec.run import Objective
from paredown.spec.target import Limits
from paredown.spec.units import GB, Unit, human_bytes

KEPT = "quality"
"""Measurement: share of the base's quality that is kept; 1 is as good as the base."""
POINTS = "quality_points"
"""Measurement: mean change of the scores against the base's, in points; below 0 is a loss."""
_LEAST_KEPT = 1e-3
"""Less than this share counts as this share, so that the ratio to the base stays finite."""
Z95 = 1.96
"""Standard errors from the middle of a normal 95 % interval to its end."""


@final
@dataclass(frozen=True, kw_only=True)
class Reading:
    """One number of one result, with its 95 % interval where it has one.

    Attributes:
        value: in the unit of whoever reads it.
        low, high: equal to `value` where no error is known.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, found: Measurement) -> Reading:
        """A measurement with the interval that was computed, or that of its standard error."""
        if found.low is not None and found.high is not None:
            return cls(value=found.value, low=found.low, high=found.high)
        half = Z95 * (found.stderr or 0.0)
        return cls(value=found.value, low=found.value - half, high=found.value + half)

    def mapped(self, change: Callable[[float], float]) -> Reading:
        """After a monotonic change of unit, rising or falling."""
        ends = sorted((change(self.low), change(self.high)))
        return Reading(value=change(self.value), low=ends[0], high=ends[1])


@final
@dataclass(frozen=True, kw_only=True)
class Limit:
    """The bound that a user may set on a quantity.

    Attributes:
        field: of `Limits`; the command-line option follows from it.
        read: attribute of `Limits` that holds the bound as a number; None: the field itself.
        name: what is bounded, in sentences.
        unit: of the bound.
        upper: whether the value must stay at or below the bound, else at or above it.
        seen_from: the bounded value from the quantity over the baseline's, or, where `absolute`,
            from the quantity itself.
        absolute: the bound does not depend on the baseline.
        span: a difference that counts as an excess of 1; None: as much as the bound itself.
        shown: a value for people.
    """

    field: str
    read: str | None = None
    name: str
    unit: str
    upper: bool
    seen_from: Callable[[float], float]
    absolute: bool = False
    span: float | None = None
    shown: Callable[[float], str]

    @property
    def option(self) -> str:
        """On the command line."""
        return "--" + self.field.replace("_", "-")

    def asked(self, limits: Limits) -> float | None:
        """The user's bound; None where there is none."""
        bound: float | None = getattr(limits, self.read or self.field)
        return bound

    def in_words(self, bound: float) -> str:
        """`memory <= 2 GB`."""
        gap = "" if self.unit in {"x", "pt"} else " "
        return f"{self.name} {'<=' if self.upper else '>='} {bound:g}{gap}{self.unit}"

    def excess(self, seen: float, bound: float) -> float:
        """By how much a value is beyond the bound, as a share of it; <= 0 where it is met."""
        beyond = seen - bound if self.upper else bound - seen
        return beyond / (self.span or bound)


@final
@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One row: something of which less is better.

    Attributes:
        measurement: what stands for it in a result; positive.
        unit: of the measurement.
        best, worst: ends of its axis, as multiples of the baseline. They are fixed beforehand, so
            that a gain means the same early and late; what is beyond `worst` is worth nothing.
        resolution: relative difference below which two values count as equal: what a repeat gives.
        title: in tables and sentences.
        axis: title of a plot's axis, whose numbers are the measurement over `divisor`.
        less, more: how a smaller and a larger value are called; empty where the quantity has
            words of its own.
        paired: measurement of the same quantity relative to the base, taken together with it; None
            where there is none, and two measurements are divided.
        inverted: `paired` grows as the quantity shrinks.
        relative: only the ratio to the baseline counts, never two measurements by themselves: they
            may have been taken hours apart, or on two machines.
        only_measured: an estimate is not taken for it.
        optional: where a result lacks it, it is no objective, rather than the result left out.
        limit: that users may set on it.
    """

    measurement: str
    unit: Unit
    best: float
    worst: float
    resolution: float = 0.0
    title: str
    axis: str
    divisor: float = 1.0
    less: str = ""
    more: str = ""
    paired: str | None = None
    inverted: bool = False
    relative: bool = False
    only_measured: bool = False
    optional: bool = False
    limit: Limit | None = None

    def measured(self, result: TrialResult) -> Measurement | None:
        """The measurement behind it, if the result has one that counts."""
        found = result.get(self.measurement)
        estimated = found is not None and found.source == "estimated"
        return None if self.only_measured and estimated else found

    def value(self, result: TrialResult) -> float | None:
        """In `unit`; None where it was not measured, or is not positive and so has no ratio."""
        found = self.measured(result)
        return found.value if found is not None and found.value > 0 else None

    def cost(self, result: TrialResult, baseline: TrialResult | None) -> float | None:
        """What is compared, less being better: the value, or where `relative` its ratio to the
        baseline's. None where it cannot be said."""
        if not self.relative:
            return self.value(result)
        over = None if self.measured(result) is None else self.over(result, baseline)
        return None if over is None else over.value

    def over(self, result: TrialResult, baseline: TrialResult | None) -> Reading | None:
        """The quantity over the baseline's, with the interval of the paired comparison.

        What was compared side by side is preferred: two latencies may have been taken hours apart,
        on a machine that was busy once and idle once.
        """
        paired = None if self.paired is None else result.get(self.paired)
        if paired is not None:
            read = Reading.of(paired)
            return read.mapped(_inverse) if self.inverted else read
        mine = self.value(result)
        base = None if baseline is None else self.value(baseline)
        if mine is None or base is None:
            return None
        return Reading(value=mine / base, low=mine / base, high=mine / base)

    def bounded(self, result: TrialResult, baseline: TrialResult | None) -> Reading | None:
        """What the limit bounds, in the limit's unit; None where it cannot be said."""
        if self.limit is None:
            return None
        if not self.limit.absolute:
            over = self.over(result, baseline)
            return None if over is None else over.mapped(self.limit.seen_from)
        found = self.measured(result)
        return None if found is None else Reading.of(found).mapped(self.limit.seen_from)


def _inverse(share: float) -> float:
    """1 / share; an interval may reach below zero, and a model may keep nothing at all."""
    return 1 / max(share, _LEAST_KEPT)


QUANTITIES: dict[Objective, Quantity] = {
    "quality": Quantity(
        measurement="perplexity",
        unit=Unit.PERPLEXITY,
        best=1.0,
        worst=4.0,
        title="perplexity",
        axis="perplexity (lower is better)",
        paired="perplexity_ratio",
        limit=Limit(
            field="max_accuracy_loss",
            read="loss_percent",
            name="quality loss",
            unit="%",
            upper=True,
            seen_from=lambda over: 100.0 * (over - 1.0),
            span=100.0,  # a loss of 0 % may be asked for, so the bound itself is no unit
            shown=signed_percent,
        ),
    ),
    "size": Quantity(
        measurement="size",
        unit=Unit.BYTES,
        best=1 / 8,
        worst=1.1,
        title="size",
        axis="size on disk, GB",
        divisor=GB,
        less="smaller",
        more="larger",
        paired="compression_ratio",
        inverted=True,
        limit=Limit(
            field="target_ratio",
            name="ratio",
            unit="x",
            upper=False,
            seen_from=_inverse,
            shown=times,
        ),
    ),
    "latency": Quantity(
        measurement="decode_latency",
        unit=Unit.MS_PER_TOKEN,
        best=1 / 4,
        worst=2.0,
        resolution=0.05,
        title="decode latency",
        axis="decode latency, ms/token",
        less="faster per token",
        more="slower per token",
        paired="speedup",
        inverted=True,
        relative=True,
        limit=Limit(
            field="min_speedup",
            name="speed-up",
            unit="x",
            upper=False,
            seen_from=_inverse,
            shown=times,
        ),
    ),
    "memory": Quantity(
        measurement="peak_memory",
        unit=Unit.BYTES,
        best=1 / 8,
        worst=1.5,
        resolution=0.02,
        title="peak memory",
        axis="peak memory, GB",
        divisor=GB,
        less="less memory",
        more="more memory",
        limit=Limit(
            field="max_memory_gb",
            name="memory",
            unit="GB",
            upper=True,
            seen_from=lambda size: size / GB,
            absolute=True,
            shown=lambda gigabytes: human_bytes(gigabytes * GB),
        ),
    ),
    "energy": Quantity(
        measurement="energy",
        unit=Unit.JOULES_PER_TOKEN,
        best=1 / 8,
        worst=2.0,
        resolution=0.05,
        title="energy",
        axis="energy, J per generated token",
        less="less energy",
        more="more energy",
        # An estimate follows from the seconds: it would count the latency twice.
        only_measured=True,
        optional=True,
        limit=Limit(
            field="max_energy",
            name="energy",
            unit="x",
            upper=True,
            seen_from=lambda over: over,
            shown=times,
        ),
    ),
}
"""Everything that may be an objective, or bounded; quality as the text has it."""

SCORED = Quantity(
    measurement=KEPT,
    unit=Unit.FRACTION,
    best=1.0,
    worst=4.0,
    title="quality",
    axis="share of the base's quality (higher is better)",
    paired=KEPT,
    inverted=True,
    relative=True,
    limit=Limit(
        field="max_accuracy_loss",
        read="loss_percent",
        name="quality loss",
        unit="%",
        upper=True,
        seen_from=lambda over: 100.0 * (1.0 - 1.0 / over),
        span=100.0,
        shown=signed_percent,
    ),
)
"""Quality where the baseline was scored: what is kept of it (see `judge.quality`)."""

LOST_POINTS = Quantity(
    measurement=POINTS,
    unit=Unit.POINTS,
    best=1.0,
    worst=4.0,
    title="points lost",
    axis="points lost",
    limit=Limit(
        field="max_accuracy_loss",
        read="loss_points",
        name="quality loss",
        unit="pt",
        upper=True,
        absolute=True,
        seen_from=lambda points: -points,
        span=100.0,
        shown=lambda points: f"{points:+.1f} points",
    ),
)
"""No objective of its own: what a limit in points bounds."""


def quantity(objective: Objective, baseline: TrialResult | None) -> Quantity:
    """The row that holds for results of this baseline."""
    scored = baseline is not None and baseline.get(KEPT) is not None
    return SCORED if objective == "quality" and scored else QUANTITIES[objective]


def finished_baseline(results: Sequence[TrialResult]) -> TrialResult | None:
    """The uncompressed baseline, unless it failed or has not run yet."""
    return next((r for r in results if r.episode == 0 and r.status == "ok"), None)


def in_force(
    objectives: tuple[Objective, ...], results: Sequence[TrialResult]
) -> tuple[Objective, ...]:
    """The objectives, without optional ones that not every finished result has measured."""
    finished = [result for result in results if result.status == "ok"]
    return tuple(
        name
        for name in objectives
        if not QUANTITIES[name].optional or all(QUANTITIES[name].value(r) for r in finished)
    )


@final
@dataclass(frozen=True, kw_only=True)
class Bound:
    """A limit that a user has set.

    Attributes:
        objective, quantity, limit: what is bounded, as the table has it.
        value: that was asked for, in the limit's unit.
    """

    objective: Objective
    quantity: Quantity
    limit: Limit
    value: float

    def __str__(self) -> str:
        return self.limit.in_words(self.value)


def bounds(limits: Limits, baseline: TrialResult | None = None) -> list[Bound]:
    """The limits that were set on results of this baseline, in the order of `Limits`."""
    rows = [(name, quantity(name, baseline)) for name in QUANTITIES]
    found = [
        Bound(objective=name, quantity=row, limit=row.limit, value=value)
        for name, row in (*rows, ("quality", LOST_POINTS))
        if row.limit is not None and (value := row.limit.asked(limits)) is not None
    ]
    order = list(type(limits).model_fields)
    return sorted(found, key=lambda bound: order.index(bound.limit.field))


def loss(result: TrialResult, baseline: TrialResult | None) -> float | None:
    """Loss of quality in percent of the baseline's; negative where it is better than it."""
    return _bounded("quality", result, baseline)


def speedup(result: TrialResult, baseline: TrialResult | None) -> float | None:
    """Decode speed relative to the baseline, side by side where it was so measured."""
    return _bounded("latency", result, baseline)


def ratio(result: TrialResult, baseline: TrialResult | None) -> float | None:
    """Size of the baseline's files over the artifact's."""
    return _bounded("size", result, baseline)


def _bounded(name: Objective, result: TrialResult, baseline: TrialResult | None) -> float | None:
    found = quantity(name, baseline).bounded(result, baseline)
    return None if found is None else found.value
