"""SNIP by neuron: removes the MLP neurons that the cross-entropy hardly depends on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

from paredown.methods.base import Context
from paredown.methods.shared.neurons import (
    GradientNeuronParams,
    NeuronMethod,
    calibration_windows,
    remove_neurons,
    scores_on,
)

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint


class StructuredSnipParams(GradientNeuronParams):
    """Parameters of `structured_snip`."""


@final
class StructuredSnip(NeuronMethod[StructuredSnipParams]):
    """Keep the neurons with the largest mean over windows of (sum_t h dL/dh)^2, L cross-entropy.

    SNIP (arXiv:1810.02340) by neuron, as in AFR-St.
    """

    name = "structured_snip"
    summary = "remove the MLP neurons whose removal changes the loss least, by its gradient"
    params_type = StructuredSnipParams

    def apply(
        self, source: Checkpoint, out: Path, params: StructuredSnipParams, context: Context
    ) -> Tensor:
        tokens = calibration_windows(params, context)
        found = scores_on(source, tokens, context).gradients(("ce",), params.variant)
        return remove_neurons(source, out, params, context, scores=found["ce"], tokens=tokens)
