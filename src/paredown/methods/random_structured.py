"""Removes MLP neurons at random: what every pruning score has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from paredown.methods.base import Context
from paredown.methods.shared.neurons import NeuronMethod, NeuronParams, remove_neurons
from paredown.spec.domain import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint


class RandomStructuredParams(NeuronParams):
    """Parameters of `random_structured`."""

    repair: Annotated[bool, Choice(True, False)] = False
    """Refit the output matrices to calibration text by least squares. Off: no data is read."""
    seed: int = 0
    """Which neurons: another seed, another choice."""


@final
class RandomStructured(NeuronMethod[RandomStructuredParams]):
    """Keep neurons drawn at random."""

    name = "random_structured"
    summary = "remove MLP neurons at random: the baseline for pruning scores"
    params_type = RandomStructuredParams
    needs_data = False

    def reads_data(self, params: RandomStructuredParams) -> bool:
        return params.repair

    def apply(
        self, source: Checkpoint, out: Path, params: RandomStructuredParams, context: Context
    ) -> Tensor:
        from paredown.ops.saliency import random_scores

        scores = [
            random_scores(mlp.width, params.seed * 100_003 + i)
            for i, mlp in enumerate(source.spec.structure.mlps)
        ]
        tokens = context.calibration() if params.repair else None
        return remove_neurons(source, out, params, context, scores=scores, tokens=tokens)
