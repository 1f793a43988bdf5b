"""FLAP: removes the MLP neurons that fluctuate least, and keeps their mean as a bias."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, final

from paredown.errors import ConfigError
from paredown.methods.base import Context
from paredown.methods.shared.neurons import (
    NeuronMethod,
    SampledNeuronParams,
    calibration_windows,
    can_hold_bias,
    predict_neurons,
    remove_neurons,
    scores_on,
)
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint


class FlapParams(SampledNeuronParams):
    """Parameters of `flap`."""

    bias: Annotated[Literal["auto", "on", "off"], Choice("auto", "off")] = "auto"
    """Restore each MLP's mean output by a bias. `auto`: where the model's config can hold one;
    Llama's can (`mlp_bias`), Qwen's and Gemma's cannot."""


@final
class Flap(NeuronMethod[FlapParams]):
    """Keep the neurons with the largest Var(h_i) ||W_d[:, i]||^2, arXiv:2312.11983 (WIFV)."""

    name = "flap"
    summary = "remove the MLP neurons that fluctuate least; a bias keeps their mean"
    params_type = FlapParams

    def check(self, spec: ModelSpec, params: FlapParams, target: Target) -> None:
        super().check(spec, params, target)
        if params.bias == "on" and not can_hold_bias(spec):
            raise ConfigError(
                f"{spec.architecture}: its config cannot hold biases in the MLP; "
                'use bias = "off" (the repair makes up for the mean as well)'
            )

    def predict(self, spec: ModelSpec, params: FlapParams) -> ModelSpec:
        if params.scope == "global" and params.equal_widths:
            return super().predict(spec, params)
        return predict_neurons(spec, params, bias=_with_bias(spec, params))

    def apply(self, source: Checkpoint, out: Path, params: FlapParams, context: Context) -> Tensor:
        from paredown.blocks.neurons import weight_scores
        from paredown.ops.saliency import flap_scores

        tokens = calibration_windows(params, context)
        activity = scores_on(source, tokens, context).activations()
        scores = weight_scores(
            source,
            lambda i, _, output: flap_scores(output, activity[i].second, activity[i].mean),
        )
        bias = _with_bias(source.spec, params)
        return remove_neurons(source, out, params, context, scores=scores, tokens=tokens, bias=bias)


def _with_bias(spec: ModelSpec, params: FlapParams) -> bool:
    return params.bias == "on" or (params.bias == "auto" and can_hold_bias(spec))
