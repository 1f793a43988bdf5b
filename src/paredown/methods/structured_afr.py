"""AFR by neuron: removes the MLP neurons that neither the loss nor the outputs depend on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from paredown.methods.base import Context
from paredown.methods.shared.neurons import (
    GradientNeuronParams,
    NeuronMethod,
    calibration_windows,
    remove_neurons,
    scores_on,
)
from paredown.spec.domain import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint


class StructuredAfrParams(GradientNeuronParams):
    """Parameters of `structured_afr`."""

    beta: Annotated[float, Field(ge=0), Choice(1.0, 0.5, 2.0)] = 1.0
    """Weight of the SNIP score beside that of the outputs' norms."""
    robust: bool = False
    """Standardise by median and median deviation, clipped at 10, instead of mean and deviation."""


@final
class StructuredAfr(NeuronMethod[StructuredAfrParams]):
    """Keep the neurons with the largest z(FO) + beta z(SNIP), standardised over all layers.

    AFR of AFR-St: FO is the mean over windows of |sum_t h dF/dh|, F the sum of the norms of gate,
    up and down outputs; SNIP that of (sum_t h dL/dh)^2, L the cross-entropy.
    """

    name = "structured_afr"
    summary = "remove the MLP neurons that loss and layer outputs depend on least"
    params_type = StructuredAfrParams

    def apply(
        self, source: Checkpoint, out: Path, params: StructuredAfrParams, context: Context
    ) -> Tensor:
        from paredown.ops.saliency import afr_scores

        tokens = calibration_windows(params, context)
        found = scores_on(source, tokens, context).gradients(("ce", "frobenius"), params.variant)
        scores = afr_scores(found["frobenius"], found["ce"], beta=params.beta, robust=params.robust)
        return remove_neurons(source, out, params, context, scores=scores, tokens=tokens)
