"""Divergence of two distributions of which only the likeliest outcomes are known."""

from __future__ import annotations

import math
from collections.abc import Mapping

_LEAST = 1e-6
"""Mass below which what is left beside the known outcomes is rounding."""


def kl_of_likeliest(p: Mapping[int, float], q: Mapping[int, float]) -> float:
    """KL(p, q) in nats, of what is known of both: a lower bound of the whole.

    The outcomes known of `p` count one by one and all others together; joining outcomes never adds
    divergence (the data processing inequality). An outcome that `p` knows and `q` does not is given
    the probability of the least likely one that `q` knows, which it cannot exceed.

    Args:
        p, q: log-probabilities of the likeliest outcomes, nats, by outcome; never empty.

    Returns:
        At least 0. Exact over the outcomes of `p` and the rest where `q` knows all of them.
    """
    bound = min(q.values())
    within_p = sum(math.exp(value) for value in p.values())
    within_q = sum(math.exp(q[outcome]) for outcome in p if outcome in q)
    known = sum(math.exp(value) * (value - q.get(i, bound)) for i, value in p.items())
    rest = 1.0 - within_p
    if rest < _LEAST:
        return max(known, 0.0)
    return max(known + rest * math.log(rest / max(1.0 - within_q, _LEAST)), 0.0)
