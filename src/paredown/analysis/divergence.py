"""Divergence of two distributions of which only the likeliest outcomes are known."""

from __future__ import annotations

import math
from collections.abc import Mapping

_LEAST = 1e-6
"""Mass below which what is left beside the known outcomes is rounding."""


def kl_of_likeliest(p: Mapping[int, float], q: Mapping[int, float]) -> float:
    """KL(p, q) in nats, of what is known of both: a lower bound of the whole.

    The outcomes known of both count one by one and all others together; joining outcomes never adds
    divergence (the data processing inequality). That says little where hardly any are known of
    both, so a second bound is taken where it is higher: all outcomes known of `p` count, and one
    that `q` does not know has the probability of the least likely that it does, which it cannot
    exceed.

    Args:
        p, q: log-probabilities of the likeliest outcomes, nats, by outcome; never empty.

    Returns:
        At least 0. Exact over the outcomes of `p` and the rest where `q` knows all of them.
    """
    shared = {outcome: value for outcome, value in p.items() if outcome in q}
    of_both = sum(math.exp(q[outcome]) for outcome in shared)
    least = min(q.values())
    bounds = (
        _joined(shared, q, rest=1.0 - of_both),
        _joined(p, {o: q.get(o, least) for o in p}, rest=1.0 - of_both),
    )
    return max(*bounds, 0.0)


def _joined(p: Mapping[int, float], q: Mapping[int, float], *, rest: float) -> float:
    """The sum over the outcomes of `p`, and all others as one, of which `q` has the mass `rest`."""
    known = sum(math.exp(value) * (value - q[outcome]) for outcome, value in p.items())
    left = 1.0 - sum(math.exp(value) for value in p.values())
    return known if left < _LEAST else known + left * math.log(left / max(rest, _LEAST))
