"""AFR by neuron: the score that text and pictures share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from paredown.methods.base import Context, Params
from paredown.methods.shared.neurons import scores_on
from paredown.spec.domain import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.gradients import Loss
    from paredown.blocks.neuron_scores import Variant

LOSSES: tuple[Loss, ...] = ("ce", "frobenius")
"""What a score is made of: SNIP by the cross-entropy, FO by the norms of MLP outputs."""


class AfrParams(Params):
    """How the two are weighed; mixed into the parameters of a method."""

    beta: Annotated[float, Field(ge=0), Choice(1.0, 0.5, 2.0)] = 1.0
    """Weight of the SNIP score beside that of the outputs' norms."""
    robust: bool = False
    """Standardise by median and median deviation, clipped at 10, instead of mean and deviation."""


def combined(found: Mapping[Loss, list[Tensor]], params: AfrParams) -> list[Tensor]:
    """z(FO) + beta z(SNIP), (width,) per language MLP, from the importance under each loss."""
    from paredown.ops.saliency import afr_scores

    return afr_scores(found["frobenius"], found["ce"], beta=params.beta, robust=params.robust)


def scores_on_text(
    source: Checkpoint,
    tokens: Tensor,
    params: AfrParams,
    context: Context,
    *,
    variant: Variant = "own",
) -> list[Tensor]:
    """`combined`, on calibration windows (samples, length)."""
    return combined(scores_on(source, tokens, context).gradients(LOSSES, variant), params)
