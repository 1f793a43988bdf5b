"""Removes the MLP neurons with the smallest weights: the data-free baseline of pruning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from paredown.methods.base import Context
from paredown.methods.shared.neurons import NeuronMethod, NeuronParams, remove_neurons
from paredown.spec.domain import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint


class L2StructuredParams(NeuronParams):
    """Parameters of `l2_structured`."""

    repair: Annotated[bool, Choice(True, False)] = False
    """Refit the output matrices to calibration text by least squares. Off: no data is read."""


@final
class L2Structured(NeuronMethod[L2StructuredParams]):
    """Keep, in every MLP, the neurons whose weights have the largest L2 norm."""

    name = "l2_structured"
    summary = "remove the MLP neurons of smallest L2 norm; the width really shrinks"
    params_type = L2StructuredParams
    needs_data = False

    def reads_data(self, params: L2StructuredParams) -> bool:
        return params.repair

    def apply(
        self, source: Checkpoint, out: Path, params: L2StructuredParams, context: Context
    ) -> Tensor:
        from paredown.blocks.neurons import weight_scores
        from paredown.ops.saliency import l2_scores

        return remove_neurons(
            source,
            out,
            params,
            context,
            scores=weight_scores(source, lambda _, inputs, output: l2_scores(inputs, output)),
            tokens=context.calibration() if params.repair else None,
        )
