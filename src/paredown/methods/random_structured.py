"""Removes MLP neurons at random: what every pruning score has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

from paredown.methods._neurons import NeuronParams, check_neurons, predict_neurons
from paredown.methods.base import Context, Kind, Method
from paredown.spec.model import ModelSpec
from paredown.spec.structure import kept_width
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.models.checkpoint import Checkpoint


class RandomStructuredParams(NeuronParams):
    """Parameters of `random_structured`."""

    seed: int = 0
    """Which neurons: another seed, another choice."""


@final
class RandomStructured(Method[RandomStructuredParams]):
    """Keep, in every MLP, neurons drawn at random."""

    name = "random_structured"
    kind = Kind.PRUNING
    summary = "remove MLP neurons at random: the baseline for pruning scores"
    params_type = RandomStructuredParams
    runtimes = ("paredown", "transformers", "vllm")

    def check(self, spec: ModelSpec, params: RandomStructuredParams, target: Target) -> None:
        check_neurons(spec, params)

    def predict(self, spec: ModelSpec, params: RandomStructuredParams) -> ModelSpec:
        return predict_neurons(spec, params)

    def apply(
        self, source: Checkpoint, out: Path, params: RandomStructuredParams, context: Context
    ) -> Tensor:
        from paredown.models.rewrite import keep_neurons, probe_walk
        from paredown.ops.saliency import random_scores, strongest

        full = source.spec.structure.mlps[0].width
        width = kept_width(full, params.ratio)
        return keep_neurons(
            source,
            out,
            walk=probe_walk(
                source, device=context.device, trust_remote_code=context.trust_remote_code
            ),
            keep=lambda block, inputs, output: strongest(
                random_scores(full, params.seed * 100_003 + block), width
            ),
            width=width,
            progress=context.progress,
        )
