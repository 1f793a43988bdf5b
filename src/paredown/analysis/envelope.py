"""Whether a model beats the reference of equal bytes by more than its error. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class Judged:
    """Bytes and KL of a model, nats per token, with the standard error of its mean."""

    nbytes: float
    kl: float
    stderr: float


@dataclass(frozen=True, slots=True)
class Gain:
    """A model beside the reference of equal bytes.

    Attributes:
        ratio: its KL over the reference's; below 1 is better.
        is_sure: whether 1.96 standard errors of the difference leave it better.
    """

    ratio: float
    is_sure: bool


def gain_over(reference: Sequence[Judged], model: Judged) -> Gain | None:
    """A model against the curve through reference models, log KL linear in log bytes between them.

    References that are both larger and worse than another are no part of the curve. Between two of
    them the curve flatters the reference: no such model exists there. Standard errors are taken as
    independent, though both are measured on the same tokens, so a gain is rather understated.

    Returns:
        None where the model lies outside the sizes of the reference.
    """
    edge = _edge(reference)
    for small, large in zip(edge, edge[1:] or edge, strict=False):
        if small.nbytes <= model.nbytes <= large.nbytes:
            expected, error = _between(small, large, model.nbytes)
            apart = _NORMAL_95 * math.hypot(error, model.stderr)
            return Gain(model.kl / expected, model.kl + apart < expected)
    return None


def _edge(reference: Sequence[Judged]) -> list[Judged]:
    found: list[Judged] = []
    for one in sorted((r for r in reference if r.kl > 0), key=lambda r: (r.nbytes, r.kl)):
        if not found or one.kl < found[-1].kl:
            found.append(one)
    return found


def _between(small: Judged, large: Judged, nbytes: float) -> tuple[float, float]:
    """KL of the curve at a size, and its standard error."""
    span = math.log(large.nbytes / small.nbytes)
    share = math.log(nbytes / small.nbytes) / span if span else 0.0
    kl = math.exp((1 - share) * math.log(small.kl) + share * math.log(large.kl))
    relative = math.hypot((1 - share) * small.stderr / small.kl, share * large.stderr / large.kl)
    return kl, kl * relative
