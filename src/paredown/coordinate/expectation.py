"""What a strategy is expected to cost in quality, from what it cost elsewhere; or nothing at all.

Losses do not carry over exactly. What is kept is the *excess*, the perplexity over the base's minus
one; on another model, or another text, it is multiplied by something. How wide that something is
was seen in the recordings of `benchmarks/data`: 309 strategies on two models of a family. Where the
excess is at most 1, a factor of three either way holds 98 of 100; what ruins a model ruins it by
anything, and a factor of ten holds nine of ten. `tests/coordinate/test_prediction.py` counts it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import final

from paredown.coordinate.skills import Skill
from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.methods.shared.knowledge import known
from paredown.spec.model import ModelSpec
from paredown.spec.strategy import Strategy

SAME = 2.0
"""Factor of the excess between two texts, on one and the same model."""
FAMILY = 3.0
"""Between two models of a family."""
ELSEWHERE = 5.0
"""Between two families: wider, and by how much nothing recorded here tells."""
RUINED = 10.0
"""Where the excess is above 1."""
FLOOR = 0.01
"""Excess below which a repeat on another text says as much."""
LARGER = 3.0
"""Times as many parameters from which on a model may well lose nothing."""


@final
@dataclass(frozen=True, kw_only=True)
class Expected:
    """Perplexity over the base's.

    Attributes:
        value, low, high: as a ratio; 95 % of such strategies are expected to lie between the ends.
        n: models or experiments behind it.
        basis: in words.
    """

    value: float
    low: float
    high: float
    n: int
    basis: str


@final
@dataclass(frozen=True, kw_only=True)
class Seen:
    """One strategy (canonical) on one model: perplexity over the base's."""

    strategy: Strategy
    quality: float
    model: str
    family: str
    parameters: int


def expected_quality(
    strategy: Strategy, spec: ModelSpec, skills: Sequence[Skill]
) -> Expected | None:
    """What is known of a strategy (canonical); None where nothing is.

    The user's own experiments on similar models go before the rows that are shipped, and among
    them those on a model of this very size.

    Args:
        skills: that carry over to this model (`skills.transferable`).
    """
    own = [
        Seen(strategy=strategy, quality=row.perplexity_ratio, model=row.model, family=row.family,
             parameters=row.parameters)
        for skill in skills if skill.strategy.hash == strategy.hash
        for row in skill.rows if row.perplexity_ratio is not None
    ]  # fmt: skip
    rows = [r for r in own if r.parameters == spec.parameters] or own
    word = "own experiments on" if rows else "known of"
    rows = rows or [row for row in shipped() if row.strategy.hash == strategy.hash]
    return _around(rows, spec, word) if rows else None


def _around(rows: Sequence[Seen], spec: ModelSpec, word: str) -> Expected:
    """The median, and a factor of the excess around it that shrinks with more rows."""
    middle = median(row.quality for row in rows)
    # What training gained on one text, another may take back.
    excess = abs(middle - 1.0)
    # With n rows the middle is known better, but not what the next model does.
    width = math.exp(math.log(_factor(rows, spec, excess)) * math.sqrt((1 + 1 / len(rows)) / 2))
    is_larger = spec.parameters >= LARGER * max(row.parameters for row in rows)
    least = 1.0 if is_larger else 1.0 + excess / width
    names = sorted({row.model for row in rows})
    return Expected(
        value=middle,
        low=min(middle, least) - FLOOR,
        high=1.0 + excess * width + FLOOR,
        n=len(rows),
        basis=f"{word} {', '.join(names[:2])}",
    )


def _factor(rows: Sequence[Seen], spec: ModelSpec, excess: float) -> float:
    if excess > 1.0:
        return RUINED
    if all(row.parameters == spec.parameters for row in rows):
        return SAME
    return FAMILY if any(row.family == spec.family for row in rows) else ELSEWHERE


@cache
def shipped() -> tuple[Seen, ...]:
    """Rows of the package whose methods this version knows."""
    found = []
    for row in known():
        try:
            strategy = registry.canonical(row.strategy)
        except ConfigError:  # a parameter of another version
            continue
        found.append(
            Seen(strategy=strategy, quality=row.quality, model=row.model, family=row.family,
                 parameters=row.parameters)
        )  # fmt: skip
    return tuple(found)
