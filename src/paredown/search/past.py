"""What policies learn from when there are more trials than they need, or than time allows.

A Gaussian process takes the cube of its points, and behind ten thousand trials it would take hours
to propose one that takes a minute. Behind a few hundred, those that are left out are dominated or
old, and change no proposal much; that they were tried is never forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np

from paredown.spec.result import TrialResult

LEARNED = 256
"""Most trials that policies learn from."""


@final
@dataclass(frozen=True, kw_only=True)
class Past:
    """The trials of a run, as policies see them.

    Attributes:
        learned: in order, baseline included; all there are up to `LEARNED`.
        forgotten: hashes of the strategies of all others.
    """

    learned: Sequence[TrialResult]
    forgotten: frozenset[str] = frozenset()

    @classmethod
    def of(cls, history: Sequence[TrialResult]) -> Self:
        """The baseline, the latest half, the first of every method, what no other trial beats in
        perplexity and size, and an even share of the rest."""
        if len(history) <= LEARNED:
            return cls(learned=history)
        chosen = dict.fromkeys(i for i, result in enumerate(history) if result.strategy is None)
        chosen |= dict.fromkeys(range(len(history) - LEARNED // 2, len(history)))
        chosen |= dict.fromkeys(_firsts(history))
        chosen |= dict.fromkeys(_undominated(history))
        spread = np.linspace(0, len(history) - 1, LEARNED).round().astype(int).tolist()
        for place in spread:
            if len(chosen) >= LEARNED:
                break
            chosen.setdefault(place, None)
        others = (r.strategy for i, r in enumerate(history) if i not in chosen)
        return cls(
            learned=tuple(history[i] for i in sorted(chosen)),
            forgotten=frozenset(strategy.hash for strategy in others if strategy is not None),
        )


def _firsts(history: Sequence[TrialResult]) -> list[int]:
    """Where each method stands for the first time."""
    seen: set[str] = set()
    found = []
    for place, result in enumerate(history):
        methods = set() if result.strategy is None else {s.method for s in result.strategy.steps}
        if not methods <= seen:
            found.append(place)
            seen |= methods
    return found


def _undominated(history: Sequence[TrialResult]) -> list[int]:
    """Where those stand that are best in perplexity at their size; of many, spread over sizes."""
    rows = [
        (place, perplexity, size)
        for place, result in enumerate(history)
        if (perplexity := result.value("perplexity")) and (size := result.value("size"))
    ]
    if not rows:
        return []
    table = np.array(rows)
    # By size, then perplexity: on the front is what is better than all that is smaller. A sweep,
    # because comparing each with each would itself take seconds behind ten thousand.
    table = table[np.lexsort((table[:, 1], table[:, 2]))]
    before = np.minimum.accumulate(np.concatenate([[np.inf], table[:-1, 1]]))
    front = table[table[:, 1] < before]
    spread = np.linspace(0, len(front) - 1, min(LEARNED // 4, len(front))).round().astype(int)
    places: list[int] = front[spread, 0].astype(int).tolist()
    return places
