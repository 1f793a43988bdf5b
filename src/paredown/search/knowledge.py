"""What strategies did to models that were measured before: shipped with the package.

A run on a model that nobody has measured starts from here, not from the alphabet. The rows are
those of `benchmarks/methods.py --knowledge`; they are effects on other models, so they decide where
a search begins and what it reckons with, never what is recommended.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from paredown.errors import ConfigError
from paredown.judge.limits import breaks
from paredown.methods import registry
from paredown.methods.shared.knowledge import known
from paredown.search.base import Remembered
from paredown.search.index import genome
from paredown.search.space import Space
from paredown.spec.run import Objective
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits

SAFE = 1.01
"""Quality over the base's, up to which a strategy counts as safe."""
USUAL = 1.12
"""Quality over the base's, up to which what usually wins is looked for where the user sets no
limit: what costs a small model so much costs a larger one less."""
SHARE = 2 / 3
"""At most this share of a run's episodes goes into anchors; the rest follows what they showed."""
ANCHORS = 4
"""Most anchors of a run."""
WORTH_TRAINING = 1.1
"""Compression ratio from which on a strategy that trains may be an anchor."""
LONG = 8
"""Episodes from which on one of them may train, which takes as long as several others."""


@final
@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What a run starts from where nothing is known of its model.

    Attributes:
        anchors: to try first, canonical.
        effects: to reckon with.
    """

    anchors: tuple[Strategy, ...]
    effects: tuple[Remembered, ...]


def effects() -> tuple[Remembered, ...]:
    """The rows as the forecast takes them: losses, the median over models that had the strategy."""
    seen: dict[str, tuple[Strategy, list[float]]] = {}
    for row in known():
        strategy = _canonical(row.strategy)
        if strategy is not None:
            seen.setdefault(strategy.hash, (strategy, []))[1].append(row.quality)
    return tuple(
        Remembered(strategy=strategy, over={"quality": sorted(values)[len(values) // 2]})
        for strategy, values in seen.values()
    )


def anchors(space: Space, limits: Limits, *, episodes: int) -> tuple[Strategy, ...]:
    """Strategies to try first on a model that nobody has measured.

    In this order: the smallest that is safe, the smallest that usually stays within the user's
    limits, and one between them, each by the sizes that are known for this very model; then, in
    long runs, the best of those that prune and train. Where a limit is set, what is expected to
    break it is no anchor.

    Args:
        space: what may be proposed.
        limits: of the user.
        episodes: of the run.
    """
    rows = list(_rows(space, limits))
    quick = [row for row in rows if not row.recovers]
    safe = _smallest([row for row in quick if row.quality <= SAFE])
    bold = _smallest([row for row in quick if row.quality <= _most(limits)])
    found = [row for row in (safe, bold) if row is not None]
    if safe is not None and bold is not None:
        middle = math.sqrt(safe.ratio * bold.ratio)  # geometric: sizes count as factors
        between = [row for row in quick if safe.ratio < row.ratio < bold.ratio]
        found += sorted(between, key=lambda row: abs(math.log(row.ratio / middle)))[:1]
    if episodes >= LONG:
        # Training takes so long that a few percent of the size are no reason for it.
        trained = [
            row
            for row in rows
            if row.recovers and row.quality <= _most(limits) and row.ratio >= WORTH_TRAINING
        ]
        found += sorted(trained, key=lambda row: row.quality)[:1]
    # The safe one and the bold one may be the same.
    chosen = list(dict.fromkeys(row.strategy.hash for row in found))
    by_hash = {row.strategy.hash: row.strategy for row in found}
    count = max(1, min(ANCHORS, math.floor(episodes * SHARE)))
    return tuple(by_hash[key] for key in chosen[:count])


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A known effect, and what it would be here.

    Attributes:
        recovers: it has several steps, one of which trains: minutes to hours, not seconds.
    """

    strategy: Strategy
    quality: float
    ratio: float
    recovers: bool


def _rows(space: Space, limits: Limits) -> Iterator[_Row]:
    """What is known of strategies that this space has, as far as it is expected to be allowed."""
    for row in known():
        strategy = _here(row.strategy, space)
        if strategy is None:
            continue
        ratio = space.ratio(strategy)
        over: dict[Objective, float] = {"quality": row.quality, "size": 1 / ratio}
        if ratio > 1 and not breaks(over, limits):
            yield _Row(
                strategy=strategy, quality=row.quality, ratio=ratio,
                recovers=len(strategy.steps) > 1,
            )  # fmt: skip


def _smallest(rows: list[_Row]) -> _Row | None:
    return max(rows, key=lambda row: (row.ratio, -row.quality), default=None)


def _most(limits: Limits) -> float:
    """Largest loss, over the base, that is looked for."""
    loss = limits.loss_percent
    return USUAL if loss is None else 1 + loss / 100


def _here(text: str, space: Space) -> Strategy | None:
    """The strategy in this space; where its group size does not fit the model, the nearest with
    as many bits."""
    wanted = _canonical(text)
    if wanted is None or wanted in space:
        return wanted
    near = space.nearest(genome(wanted), lambda strategy: True)
    return near if near is not None and _bits(near) == _bits(wanted) else None


def _bits(strategy: Strategy) -> list[object]:
    names = ("bits", "embedding_bits", "ratio")
    return [step.params.get(name) for step in strategy.steps for name in names]


def _canonical(text: str) -> Strategy | None:
    """None where the method, or a parameter, is not known in this version."""
    try:
        return registry.canonical(text)
    except ConfigError:
        return None
