"""Distillation: recovery by learning from the uncompressed model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field

from paredown.errors import ConfigError
from paredown.methods.base import Context, Kind, Method
from paredown.methods.shared.tuning import (
    AdapterParams,
    adapter_of,
    check_adapter,
    check_tuning,
    predict_adapter,
    train,
    training_of,
)
from paredown.spec.model import ModelSpec
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint


class DistillParams(AdapterParams):
    """Parameters of `distill`."""

    parameters: Literal["lora", "full"] = "lora"
    """What is trained: an adapter (rank, alpha, dropout, targets), or all weights, which takes
    16 bytes of memory per weight."""
    teaching: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the loss that comes from the teacher; the rest comes from the text itself."""
    temperature: Annotated[float, Field(gt=0, le=20)] = 1.0
    """Softens teacher and student alike: above 1, unlikely tokens count for more."""
    features: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the difference between the blocks' outputs, relative to the teacher's; 0 leaves
    it out. Needs a student as wide as the teacher; blocks are matched by relative depth."""


@final
class Distill(Method[DistillParams]):
    """Learn the next-token distribution of the uncompressed model, arXiv:1503.02531.

    `teaching T^2 KL(teacher || student) + (1 - teaching) CE`, computed on the same text for both.
    The teacher runs beside the student; its outputs are never stored.
    """

    name = "distill"
    kind = Kind.TUNING
    summary = "recover quality by learning from the uncompressed model, by adapter or all weights"
    params_type = DistillParams
    needs_data = True
    extra = ("peft", "lora")

    def check(self, spec: ModelSpec, params: DistillParams, target: Target) -> None:
        if params.parameters == "lora":
            check_adapter(spec, params, self.name)
            return
        if spec.quantization is not None:
            raise ConfigError(
                f"distill: packed weights ({spec.quantization}) cannot be trained; use "
                'parameters="lora", or put distill before the quantization'
            )
        check_tuning(spec, params, self.name)

    def predict(self, spec: ModelSpec, params: DistillParams) -> ModelSpec:
        return predict_adapter(spec, params)  # nothing is packed where all weights are trained

    def apply(
        self, source: Checkpoint, out: Path, params: DistillParams, context: Context
    ) -> Tensor:
        from paredown.train.recovery import Teacher

        teacher = Teacher(
            folder=training_of(context).base,
            alpha=params.teaching,
            temperature=params.temperature,
            features=params.features,
        )
        adapter = adapter_of(source.spec, params) if params.parameters == "lora" else None
        return train(source, out, params, context, adapter=adapter, teacher=teacher)
