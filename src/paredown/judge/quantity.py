"""What is known of one quantity: how results are read, and how its limit is.

The table of all of them is `judge.quantities`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from paredown.language import say
from paredown.spec.result import Measurement, TrialResult
from paredown.spec.target import Limits
from paredown.spec.units import Unit

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
        ends = sorted((change(self.low), change(self.high)))  # a falling change swaps them
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
        step: to whole multiples of which a bound is rounded that would accept a result.
        text: a bound as it is written, a bit above rather than below; None: the number.
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
    step: float = 0.01
    text: Callable[[float], str] | None = None
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
        return f"{say(self.name)} {self.relation(bound)}"

    def relation(self, bound: float) -> str:
        """`<= 2 GB`."""
        return f"{'<=' if self.upper else '>='} {self.written(bound)}"

    def written(self, bound: float) -> str:
        """A bound with its unit: `2 GB`, `1.5x`, `72.35MB`."""
        if self.text is not None:
            return self.text(bound)
        gap = "" if self.unit in {"x", "pt"} else " "
        return f"{bound:g}{gap}{say(self.unit)}"

    def accepting(self, seen: float) -> str | float:
        """A bound, as its option takes it, that a value just keeps."""
        if self.text is not None:
            return self.text(seen)
        rounded = (math.ceil if self.upper else math.floor)(seen / self.step) * self.step
        rounded = round(rounded, 6)  # multiples of 0.01 are no binary numbers
        return f"{rounded}{self.unit}" if self.unit == "pt" else rounded

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
        of_machine: it says as much of the machine as of the model, so that two measurements of it
            are set against each other only where both were taken on one.
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
    of_machine: bool = False
    limit: Limit | None = None

    @property
    def direction(self) -> str:
        """Of the measurement: one that is the inverted ratio itself grows as things get better."""
        return "maximize" if self.inverted and self.paired == self.measurement else "minimize"

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
            return read.mapped(inverse) if self.inverted else read
        mine = self.value(result)
        base = None if baseline is None else self.value(baseline)
        if mine is None or base is None or not self.comparable(result, baseline):
            return None
        return Reading(value=mine / base, low=mine / base, high=mine / base)

    def comparable(self, one: TrialResult, other: TrialResult | None) -> bool:
        """Whether measurements of it by two results may be set against each other."""
        if not self.of_machine or other is None or None in (one.machine, other.machine):
            return True  # older records do not say where they were measured
        return one.machine == other.machine

    def bounded(self, result: TrialResult, baseline: TrialResult | None) -> Reading | None:
        """What the limit bounds, in the limit's unit; None where it cannot be said."""
        if self.limit is None:
            return None
        if not self.limit.absolute:
            over = self.over(result, baseline)
            return None if over is None else over.mapped(self.limit.seen_from)
        found = self.measured(result)
        return None if found is None else Reading.of(found).mapped(self.limit.seen_from)


def inverse(share: float) -> float:
    """1 / share; an interval may reach below zero, and a model may keep nothing at all."""
    return 1 / max(share, _LEAST_KEPT)
