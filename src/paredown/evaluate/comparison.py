"""From items to scores, and two models on the same items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paredown.analysis.paired import (
    is_equivalent,
    mcnemar_exact,
    paired_proportion_interval,
    wilson_interval,
)
from paredown.analysis.statistics import Interval, mean_stderr, paired_bootstrap_ci
from paredown.evaluate.items import Item, TaskItems
from paredown.spec.result import Measurement
from paredown.spec.scores import Comparison, Part, TaskScore
from paredown.spec.units import Unit

_TOST_LEVEL = 0.90
"""Interval that two one-sided tests at 5 % look at."""


def score(found: TaskItems, *, items: str) -> TaskScore:
    """The mean over items with its interval: Wilson's where items are right or wrong.

    Args:
        items: file of the single items, to be named in the score.
    """
    values = [item.score for item in found.items]
    mean = mean_stderr(values)
    interval = _interval(values)
    others = {k for item in found.items for k in item.metrics} - {found.metric.split(",")[0]}
    return TaskScore(
        name=found.name,
        metric=found.metric,
        value=mean.value,
        stderr=mean.stderr,
        low=interval.low,
        high=interval.high,
        n=mean.n,
        n_available=found.n_available,
        n_truncated=sum(item.truncated for item in found.items),
        few_shot=found.few_shot,
        chance=found.chance,
        higher_is_better=found.higher_is_better,
        other={k: _mean([item.metrics[k] for item in found.items]) for k in sorted(others)},
        parts=_parts(found.items),
        rows=found.rows,
        how=found.how,
        items=items,
    )


def measurement(found: TaskScore) -> Measurement:
    """The score as a measurement among others."""
    return Measurement(
        name=found.name,
        value=found.value,
        unit=Unit.FRACTION,
        n=found.n,
        stderr=found.stderr,
        lower_is_better=not found.higher_is_better,
        source="measured",
        how=found.how,
    )


def compare(
    mine: TaskItems, base: TaskItems, *, margin: float, ratio: float | None = None
) -> Comparison:
    """One model against its base, paired item by item.

    Args:
        margin: difference of the score that would not matter.
        ratio: how many times smaller the files are, for the verdict.

    Raises:
        ValueError: the two did not answer the same items.
    """
    pairs = _pairs(mine, base)
    sign = 1.0 if mine.higher_is_better else -1.0
    binary = all(score in (0.0, 1.0) for a, b in pairs for score in (a.score, b.score))
    lost = sum(sign * (a.score - b.score) < 0 for a, b in pairs)
    gained = sum(sign * (a.score - b.score) > 0 for a, b in pairs)
    differences = [sign * (a.score - b.score) for a, b in pairs]

    def interval(level: float) -> Interval:
        if binary:
            return paired_proportion_interval(lost, gained, len(pairs), level=level)
        return _mean_interval(differences, level)

    shown = interval(0.95)
    p_value = mcnemar_exact(lost, gained) if binary else None
    equivalent = is_equivalent(interval(_TOST_LEVEL), margin)
    changed = _changed(pairs)
    return Comparison(
        n=len(pairs),
        base_value=_mean([b.score for _, b in pairs]),
        difference=shown.value,
        low=shown.low,
        high=shown.high,
        lost=lost if binary else None,
        gained=gained if binary else None,
        changed=changed,
        p_value=p_value,
        margin=margin,
        equivalent=equivalent,
        verdict=verdict(
            mine.name,
            shown,
            n=len(pairs),
            p_value=p_value,
            equivalent=equivalent,
            margin=margin,
            changed=changed,
            ratio=ratio,
        ),
    )


def verdict(
    name: str,
    difference: Interval,
    *,
    n: int,
    p_value: float | None,
    equivalent: bool,
    margin: float,
    changed: int | None,
    ratio: float | None,
) -> str:
    """One line, e.g. "4.1x smaller; no measurable loss on arc_easy (n=500, -0.4 +- 1.9 points)".

    A loss is called measurable if McNemar's test rejects at 5 %, or, where scores are not right
    or wrong, if the 95 % interval leaves zero out.
    """
    apart = p_value < 0.05 if p_value is not None else not difference.low <= 0 <= difference.high
    half = max(difference.high - difference.value, difference.value - difference.low)
    numbers = f"n={n}, {100 * difference.value:+.1f} +- {100 * half:.1f} points"
    if not apart:
        what = f"no measurable loss on {name} ({numbers})"
    elif difference.value < 0:
        what = f"measurable loss on {name} ({numbers})"
    else:
        what = f"measurable gain on {name} ({numbers})"
    parts = [f"{ratio:.1f}x smaller"] if ratio is not None and ratio > 1 else []
    parts.append(what)
    if equivalent:
        parts.append(f"equivalent within {100 * margin:g} points")
    elif not apart:
        parts.append(f"a loss of {100 * max(-difference.low, 0.0):.1f} points is not ruled out")
    if changed is not None:
        parts.append(f"{_in_hundred(changed, n)} in 100 answers changed")
    return "; ".join(parts)


def _in_hundred(count: int, n: int) -> str:
    share = 100 * count / n
    return f"{share:.1f}" if 0 < share < 1 else f"{share:.0f}"


def _pairs(mine: TaskItems, base: TaskItems) -> list[tuple[Item, Item]]:
    before = {item.id: item for item in base.items}
    same = len(mine.items) == len(before) and all(
        item.id in before and before[item.id].hash == item.hash for item in mine.items
    )
    if not same:
        raise ValueError(f"{mine.name}: the two models did not answer the same items")
    return [(item, before[item.id]) for item in mine.items]


def _changed(pairs: Sequence[tuple[Item, Item]]) -> int | None:
    if any(item.answer is None for pair in pairs for item in pair):
        return None
    return sum(a.answer != b.answer for a, b in pairs)


def _parts(items: Sequence[Item]) -> dict[str, Part]:
    names = dict.fromkeys(item.part for item in items)
    if len(names) == 1:
        return {}
    scores = {name: [item.score for item in items if item.part == name] for name in names}
    return {name: Part(value=_mean(v), n=len(v)) for name, v in scores.items()}


def _interval(values: Sequence[float]) -> Interval:
    if set(values) <= {0.0, 1.0}:
        return wilson_interval(int(sum(values)), len(values))
    return _mean_interval(values, 0.95)


def _mean_interval(values: Sequence[float], level: float) -> Interval:
    """Of a mean of shares: the bootstrap's; a single one leaves everything possible."""
    if len(values) == 1:
        return Interval(value=values[0], low=-1.0, high=1.0, level=level)
    return paired_bootstrap_ci(
        values, values, statistic=lambda a, _: float(a.mean()), seed=0, level=level
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
