"""ReFer by neuron: removes the MLP neurons that the layers' outputs hardly depend on."""

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


class StructuredReferSvdParams(GradientNeuronParams):
    """Parameters of `structured_refer_svd`."""


@final
class StructuredReferSvd(NeuronMethod[StructuredReferSvdParams]):
    """Keep the neurons that change the mean singular value of the MLPs' outputs most.

    ReFer of AFR-St: first-order change of the nuclear norms of gate, up and down outputs over
    batches of windows, averaged as |sum_t h dL/dh|. It needs no labels.
    """

    name = "structured_refer_svd"
    summary = "remove the MLP neurons that the layers' singular values depend on least"
    params_type = StructuredReferSvdParams

    def apply(
        self, source: Checkpoint, out: Path, params: StructuredReferSvdParams, context: Context
    ) -> Tensor:
        tokens = calibration_windows(params, context)
        found = scores_on(source, tokens, context).gradients(("nuclear",), params.variant)
        return remove_neurons(source, out, params, context, scores=found["nuclear"], tokens=tokens)
