"""Removes the MLP neurons with the smallest weights: the data-free baseline of pruning."""

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


class L2StructuredParams(NeuronParams):
    """Parameters of `l2_structured`."""


@final
class L2Structured(Method[L2StructuredParams]):
    """Keep, in every MLP, the neurons whose weights have the largest L2 norm."""

    name = "l2_structured"
    kind = Kind.PRUNING
    summary = "remove the MLP neurons of smallest L2 norm; the width really shrinks"
    params_type = L2StructuredParams
    runtimes = ("paredown", "transformers", "vllm")

    def check(self, spec: ModelSpec, params: L2StructuredParams, target: Target) -> None:
        check_neurons(spec, params)

    def predict(self, spec: ModelSpec, params: L2StructuredParams) -> ModelSpec:
        return predict_neurons(spec, params)

    def apply(
        self, source: Checkpoint, out: Path, params: L2StructuredParams, context: Context
    ) -> Tensor:
        from paredown.models.rewrite import keep_neurons, probe_walk
        from paredown.ops.saliency import l2_scores, strongest

        width = kept_width(source.spec.structure.mlps[0].width, params.ratio)
        return keep_neurons(
            source,
            out,
            walk=probe_walk(
                source, device=context.device, trust_remote_code=context.trust_remote_code
            ),
            keep=lambda block, inputs, output: strongest(l2_scores(inputs, output), width),
            width=width,
            progress=context.progress,
        )
