"""Wanda-sp: removes the MLP neurons whose activation and output weights are small together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

from paredown.methods.base import Context
from paredown.methods.shared.neurons import (
    NeuronMethod,
    SampledNeuronParams,
    calibration_windows,
    remove_neurons,
    scores_on,
)

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint


class WandaSpParams(SampledNeuronParams):
    """Parameters of `wanda_sp`."""


@final
class WandaSp(NeuronMethod[WandaSpParams]):
    """Keep the neurons with the largest ||W_d[:, i]|| ||h_i||, arXiv:2306.11695 by neuron."""

    name = "wanda_sp"
    summary = "remove the MLP neurons of smallest activation times output weights"
    params_type = WandaSpParams

    def apply(
        self, source: Checkpoint, out: Path, params: WandaSpParams, context: Context
    ) -> Tensor:
        from paredown.blocks.neurons import weight_scores
        from paredown.ops.saliency import wanda_sp_scores

        tokens = calibration_windows(params, context)
        activity = scores_on(source, tokens, context).activations()
        scores = weight_scores(
            source, lambda i, _, output: wanda_sp_scores(output, activity[i].second)
        )
        return remove_neurons(source, out, params, context, scores=scores, tokens=tokens)
