"""What strategies did to models that were measured before: shipped with the package.

A run on a model that nobody has measured starts from here, not from the alphabet. The rows are
those of `benchmarks/methods.py --knowledge`; they are effects on other models, so they decide where
a search begins and what it reckons with, never what is recommended.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from paredown.errors import ConfigError
from paredown.judge.limits import breaks
from paredown.methods import registry
from paredown.methods.base import Kind
from paredown.methods.shared.knowledge import Known, known
from paredown.search.base import Remembered
from paredown.search.index import genome, kind_of
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


def effects(
    qualities: Sequence[str] = (), *, rows: Sequence[Known] | None = None
) -> tuple[Remembered, ...]:
    """The rows as the forecast takes them: losses, the median over models that had the strategy.

    Args:
        qualities: what counts as quality (`RunConfig.named_qualities`). The rows know the
            perplexity of a text and the divergence on it, and no benchmark's score.
        rows: None: those that the package ships.
    """
    found = []
    for strategy, row in _effects(rows):
        kept = math.exp(-row.kl) if _is_kl(qualities) else None
        over: dict[Objective, float] = {"quality": row.quality}
        found.append(Remembered(strategy=strategy, over=over, kept=kept))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class _Effect:
    """What a strategy did, over the models that had it: the median, of two what was worse.

    Attributes:
        quality, kl: as in `Known`.
    """

    quality: float
    kl: float


def _effects(rows: Sequence[Known] | None) -> Iterator[tuple[Strategy, _Effect]]:
    """Each strategy that this version knows, as the table writes it."""
    seen: dict[str, tuple[Strategy, list[Known]]] = {}
    for row in known() if rows is None else rows:
        strategy = _canonical(row.strategy)
        if strategy is not None:
            seen.setdefault(strategy.hash, (strategy, []))[1].append(row)
    for strategy, same in seen.values():
        quality = _median(row.quality for row in same)
        yield strategy, _Effect(quality=quality, kl=_median(row.kl for row in same))


def _is_kl(qualities: Sequence[str]) -> bool:
    return tuple(qualities) == ("kl",)


def _median(values: Iterable[float]) -> float:
    among = sorted(values)
    return among[len(among) // 2]


def anchors(
    space: Space,
    limits: Limits,
    *,
    episodes: int,
    qualities: Sequence[str] = (),
    rows: Sequence[Known] | None = None,
) -> tuple[Strategy, ...]:
    """Strategies to try first on a model that nobody has measured.

    In this order: the smallest that is safe, the smallest that usually stays within the user's
    limits, and one between them, each by the sizes that are known for this very model; then, in
    long runs, the best of those that train. Where a limit is set, what is expected to break it is
    no anchor.

    Args:
        space: what may be proposed.
        limits: of the user.
        episodes: of the run.
        qualities: as in `effects`; a loss of a benchmark's score is judged by the text's.
        rows: as in `effects`.
    """
    allowed = list(_rows(space, limits, rows, is_kl=_is_kl(qualities)))
    quick = [row for row in allowed if not row.recovers]
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
            for row in allowed
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
        recovers: one of its steps trains: minutes to hours, not seconds.
    """

    strategy: Strategy
    quality: float
    ratio: float
    recovers: bool


def _rows(
    space: Space, limits: Limits, rows: Sequence[Known] | None, *, is_kl: bool
) -> Iterator[_Row]:
    """What is known of strategies that this space has, as far as it is expected to be allowed."""
    for wanted, effect in _effects(rows):
        strategy = _here(wanted, space)
        if strategy is None:
            continue
        ratio = space.ratio(strategy)
        quality = math.exp(effect.kl) if is_kl else effect.quality
        over: dict[Objective, float] = {"quality": quality, "size": 1 / ratio}
        if ratio > 1 and not breaks(over, limits, named=is_kl):
            trains = any(kind_of(step.method) is Kind.TUNING for step in strategy.steps)
            yield _Row(strategy=strategy, quality=quality, ratio=ratio, recovers=trains)


def _smallest(rows: list[_Row]) -> _Row | None:
    return max(rows, key=lambda row: (row.ratio, -row.quality), default=None)


def _most(limits: Limits) -> float:
    """Largest loss, over the base, that is looked for; a limit has left out what breaks it."""
    return USUAL if limits.loss_percent is None else math.inf


def _here(wanted: Strategy, space: Space) -> Strategy | None:
    """The strategy in this space; where its group size does not fit the model, the nearest with
    as many bits."""
    if wanted in space:
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
