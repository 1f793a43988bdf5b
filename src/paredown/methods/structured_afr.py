"""AFR by neuron: removes the MLP neurons that neither the loss nor the outputs depend on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

from paredown.methods.base import Context
from paredown.methods.shared.afr import AfrParams, scores_on_text
from paredown.methods.shared.neurons import (
    GradientNeuronParams,
    NeuronMethod,
    calibration_windows,
    remove_neurons,
)

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint


class StructuredAfrParams(AfrParams, GradientNeuronParams):
    """Parameters of `structured_afr`."""


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
        tokens = calibration_windows(params, context)
        scores = scores_on_text(source, tokens, params, context, variant=params.variant)
        return remove_neurons(source, out, params, context, scores=scores, tokens=tokens)
