"""What can be judged: one row per quantity, from which everything else about it follows.

The front, the limits, the hypervolume of the search, the recommendation, and the tables of the
documentation read this table and have none of their own. Whoever adds a quantity adds a row here,
its name to `paredown.spec.run.Objective`, and, where users may bound it, a field to
`paredown.spec.target.Limits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from paredown.judge.quantity import Limit, Quantity, inverse
from paredown.judge.words import signed_percent, times
from paredown.language import marked, say
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.target import Limits
from paredown.spec.units import GB, Unit, bytes_text, human_bytes

KEPT = "quality"
"""Measurement: share of the base's quality that is kept; 1 is as good as the base."""
PROMPT_KL = "benchmark_kl"
"""Measurement: divergence from the base after the benchmarks' own prompts, nats per token."""
POINTS = "quality_points"
"""Measurement: mean change of the scores against the base's, in points; below 0 is a loss."""
BITS_PER_WEIGHT = "bits_per_weight"
"""Measurement: all bits of the weights files over the parameters of the base."""

QUANTITIES: dict[Objective, Quantity] = {
    "quality": Quantity(
        measurement="perplexity",
        unit=Unit.PERPLEXITY,
        best=1.0,
        worst=4.0,
        title="perplexity",
        axis=marked("perplexity (lower is better)"),
        paired="perplexity_ratio",
        limit=Limit(
            field="max_accuracy_loss",
            read="loss_percent",
            name=marked("quality loss"),
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
        axis=marked("size on disk, GB"),
        divisor=GB,
        less=marked("{percent} % smaller"),
        more=marked("{percent} % larger"),
        paired="compression_ratio",
        inverted=True,
        limit=Limit(
            field="target_ratio",
            name=marked("ratio"),
            unit="x",
            upper=False,
            seen_from=inverse,
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
        axis=marked("decode latency, ms/token"),
        less=marked("{percent} % faster per token"),
        more=marked("{percent} % slower per token"),
        paired="speedup",
        inverted=True,
        relative=True,
        of_machine=True,
        limit=Limit(
            field="min_speedup",
            name=marked("speed-up"),
            unit="x",
            upper=False,
            seen_from=inverse,
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
        axis=marked("peak memory, GB"),
        divisor=GB,
        less=marked("{percent} % less memory"),
        more=marked("{percent} % more memory"),
        limit=Limit(
            field="max_memory_gb",
            name=marked("memory"),
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
        axis=marked("energy, J per generated token"),
        less=marked("{percent} % less energy"),
        more=marked("{percent} % more energy"),
        # An estimate follows from the seconds: it would count the latency twice.
        only_measured=True,
        optional=True,
        of_machine=True,
        limit=Limit(
            field="max_energy",
            name=marked("energy"),
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
    axis=marked("share of the base's quality (higher is better)"),
    paired=KEPT,
    inverted=True,
    relative=True,
    limit=Limit(
        field="max_accuracy_loss",
        read="loss_percent",
        name=marked("quality loss"),
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
    axis=marked("points lost"),
    limit=Limit(
        field="max_accuracy_loss",
        read="loss_points",
        name=marked("quality loss"),
        unit="pt",
        upper=True,
        absolute=True,
        seen_from=lambda points: -points,
        span=100.0,
        shown=lambda points: say("{points} points", points=f"{points:+.1f}"),
    ),
)
"""No objective of its own: what a limit in points bounds."""

DIVERGENCE = Quantity(
    measurement="kl",
    unit=Unit.NATS_PER_TOKEN,
    best=1.0,
    worst=4.0,
    title="KL",
    axis=marked("KL from the base, nats per token"),
    limit=Limit(
        field="kl",
        name=marked("KL"),
        unit=marked("nats/token"),
        upper=True,
        absolute=True,
        seen_from=lambda kl: kl,
        step=1e-4,
        shown=lambda kl: say("{kl} nats/token", kl=f"{kl:.3g}"),
    ),
)
"""What a limit on the divergence bounds."""

FILES = Quantity(
    measurement="size",
    unit=Unit.BYTES,
    best=1 / 8,
    worst=1.1,
    title="size",
    axis=marked("size on disk"),
    limit=Limit(
        field="size",
        name=marked("size"),
        unit="bytes",
        upper=True,
        absolute=True,
        seen_from=lambda size: size,
        text=bytes_text,
        shown=bytes_text,
    ),
)
"""What a limit in bytes bounds."""

BITS = Quantity(
    measurement=BITS_PER_WEIGHT,
    unit=Unit.BITS_PER_WEIGHT,
    best=1 / 8,
    worst=1.1,
    title="bits per weight",
    axis=marked("bits per weight"),
    limit=Limit(
        field="bpw",
        name=marked("size"),
        unit=marked("bits per weight"),
        upper=True,
        absolute=True,
        seen_from=lambda bits: bits,
        step=1e-3,
        shown=lambda bits: say("{bits} bits per weight", bits=f"{bits:.3f}"),
    ),
)
"""What a limit in bits per weight bounds."""

BOUNDED: tuple[tuple[Objective, Quantity], ...] = (
    ("quality", LOST_POINTS),
    ("quality", DIVERGENCE),
    ("size", FILES),
    ("size", BITS),
)
"""Rows that are bounded in another unit than their objective has, and are no objectives."""


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
    """The objectives, without optional ones that not every finished result has measured, and
    without those of the machine where not all were measured on one: how much faster a candidate is
    than the base differs from processor to processor, too.

    What a base lacks that was judged without being loaded is optional, too.
    """
    finished = [result for result in results if result.status == "ok"]
    baseline = finished_baseline(results)

    def is_optional(row: Quantity) -> bool:
        return row.optional or (baseline is not None and row.value(baseline) is None)

    def is_told(row: Quantity) -> bool:
        return not is_optional(row) or all(row.value(r) for r in finished)

    def is_of_one_machine(row: Quantity) -> bool:
        return all(row.comparable(r, finished[0]) for r in finished)

    rows = {name: QUANTITIES[name] for name in objectives}
    return tuple(n for n, row in rows.items() if is_told(row) and is_of_one_machine(row))


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
        for name, row in (*rows, *BOUNDED)
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
