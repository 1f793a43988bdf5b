"""When to stop although the budget is not used up."""

from __future__ import annotations

import math
from collections.abc import Sequence

from paredown.judge.hypervolume import gains
from paredown.search.cost import spent
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.target import Limits

PATIENCE_SHARE = 0.2
"""The last trials that are judged are at least this share of all."""
WORTH = 0.05
"""A stretch of trials was worth its cost if its share of the gain is at least this multiple of its
share of the cost."""


def converged(
    history: Sequence[TrialResult],
    objectives: tuple[Objective, ...],
    limits: Limits,
    *,
    patience: int,
) -> str | None:
    """Why further trials are not worth their cost, or None.

    Judged are the last k = max(patience, 20 % of the trials) trials. If they took the share c of
    all trials' seconds and brought the share g of all hypervolume gained (within the limits), the
    search has converged when g < 0.05 c. It has not while nothing meets the limits, or while k
    trials are all there are.
    """
    trials = [result for result in history if result.strategy is not None]
    brought = gains(history, objectives, limits)
    count = max(patience, math.ceil(PATIENCE_SHARE * len(trials)))
    whole, seconds = sum(brought), sum(map(spent, trials))
    if len(trials) <= count or whole <= 0:
        return None
    gain = sum(brought[-count:]) / whole
    cost = sum(map(spent, trials[-count:])) / seconds
    if gain >= WORTH * cost:
        return None
    why = (
        f"nothing better is expected, as the last {count} episodes took {cost:.0%} of the time and "
        f"brought {gain:.1%} of the hypervolume (worth it: {WORTH * cost:.1%})"
    )
    if limits != Limits():
        return f"converged: all limits are met and {why}"
    return f"converged: {why}"
