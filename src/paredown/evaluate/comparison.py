"""From items to scores, and two models on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paredown.analysis.divergence import kl_of_likeliest
from paredown.analysis.paired import (
    is_equivalent,
    mcnemar_exact,
    paired_proportion_interval,
    wilson_interval,
)
from paredown.analysis.statistics import Estimate, Interval, mean_stderr, paired_bootstrap_ci
from paredown.evaluate.items import Item, TaskItems
from paredown.runtimes.session import Likeliest
from paredown.spec.result import Measurement
from paredown.spec.scores import Comparison, Part, TaskScore
from paredown.spec.units import Unit
from paredown.spec.verdict import in_words

_TOST_LEVEL = 0.90
"""Interval that two one-sided tests at 5 % look at."""
_SURE = 0.99


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


def compare(mine: TaskItems, base: TaskItems, *, margin: float) -> Comparison:
    """One model against its base, paired item by item.

    Args:
        margin: difference of the score that would not matter.

    Raises:
        ValueError: the two did not answer the same items.
    """
    pairs = _pairs(mine, base)
    change = _Change.of(pairs, higher_is_better=mine.higher_is_better)
    lost, gained, binary = change.lost, change.gained, change.binary
    shown = change.interval(0.95)
    kl = _divergence(pairs)
    found = Comparison(
        n=len(pairs),
        base_value=_mean([b.score for _, b in pairs]),
        difference=shown.value,
        low=shown.low,
        high=shown.high,
        lost=lost if binary else None,
        gained=gained if binary else None,
        changed=_changed(pairs),
        p_value=mcnemar_exact(lost, gained) if binary else None,
        margin=margin,
        equivalent=is_equivalent(change.interval(_TOST_LEVEL), margin),
        kl=None if kl is None else kl.value,
        kl_stderr=None if kl is None else kl.stderr,
        verdict="",
    )
    return found.model_copy(update={"verdict": in_words(mine.name, found)})


def surely_lost(mine: TaskItems, base: TaskItems, loss: float) -> bool:
    """Whether items so far show a loss of more than `loss`: where the 99 % interval leaves it out.

    Looked at twice on the way, that stops a candidate which loses less in at most 1 of 100 cases.

    Raises:
        ValueError: the two did not answer the same items.
    """
    change = _Change.of(_pairs(mine, base), higher_is_better=mine.higher_is_better)
    return change.interval(_SURE).high < -loss


@dataclass(frozen=True)
class _Change:
    """Differences item by item; better is positive."""

    differences: tuple[float, ...]
    binary: bool

    @staticmethod
    def of(pairs: Sequence[tuple[Item, Item]], *, higher_is_better: bool) -> _Change:
        sign = 1.0 if higher_is_better else -1.0
        binary = all(score in (0.0, 1.0) for a, b in pairs for score in (a.score, b.score))
        return _Change(tuple(sign * (a.score - b.score) for a, b in pairs), binary)

    @property
    def lost(self) -> int:
        return sum(d < 0 for d in self.differences)

    @property
    def gained(self) -> int:
        return sum(d > 0 for d in self.differences)

    def interval(self, level: float) -> Interval:
        if self.binary:
            n = len(self.differences)
            return paired_proportion_interval(self.lost, self.gained, n, level=level)
        return _mean_interval(self.differences, level)


def _pairs(mine: TaskItems, base: TaskItems) -> list[tuple[Item, Item]]:
    before = {item.id: item for item in base.items}
    # By the question's content: a number alone may be another row in another version.
    same = len(mine.items) == len(before) and all(
        item.id in before and before[item.id].hash == item.hash for item in mine.items
    )
    if not same:
        raise ValueError(f"{mine.name}: the two models did not answer the same items")
    return [(item, before[item.id]) for item in mine.items]


def _divergence(pairs: Sequence[tuple[Item, Item]]) -> Estimate | None:
    """Mean KL(base, mine) over items; None where one of them does not tell."""
    known = [kl for mine, base in pairs if (kl := _item_divergence(mine, base)) is not None]
    # A mean over some of the items would not be that of the items that are scored.
    return mean_stderr(known) if len(known) == len(pairs) else None


def _item_divergence(mine: Item, base: Item) -> float | None:
    """Mean KL(base, mine) per token along what the base has written; of items that are not
    written, and of empty answers, that of the token after the prompt."""
    if base.along:
        if len(mine.along) != len(base.along):
            return None
        steps = zip(base.along, mine.along, strict=True)
        return _mean([kl_of_likeliest(_by_id(b), _by_id(m)) for b, m in steps])
    if mine.next is None or base.next is None:
        return None
    return kl_of_likeliest(_by_id(base.next), _by_id(mine.next))


def _by_id(told: Likeliest) -> dict[int, float]:
    return dict(zip(told.ids, told.logprobs, strict=True))


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
