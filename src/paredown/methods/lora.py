"""LoRA: recovery by training a low-rank adapter, merged into the weights where that is possible."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

from paredown.methods.base import Context, Kind, Method
from paredown.methods.shared.tuning import (
    AdapterParams,
    adapter_of,
    check_adapter,
    predict_adapter,
    train,
)
from paredown.spec.model import ModelSpec
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint


class LoraParams(AdapterParams):
    """Parameters of `lora`."""


@final
class Lora(Method[LoraParams]):
    """Low-rank adaptation on training text, arXiv:2106.09685, by peft.

    On a dense model the adapter is merged: same files, same size, same speed. On a packed model it
    is kept beside the weights, in 16 bits: merging would quantize again and lose most of it.
    """

    name = "lora"
    kind = Kind.TUNING
    summary = "recover quality by training a low-rank adapter on text; merged if not packed"
    params_type = LoraParams
    needs_data = True
    extra = ("peft", "lora")

    def check(self, spec: ModelSpec, params: LoraParams, target: Target) -> None:
        check_adapter(spec, params, self.name)

    def predict(self, spec: ModelSpec, params: LoraParams) -> ModelSpec:
        return predict_adapter(spec, params)

    def apply(self, source: Checkpoint, out: Path, params: LoraParams, context: Context) -> Tensor:
        adapter = adapter_of(source.spec, params)
        return train(source, out, params, context, adapter=adapter, teacher=None)
