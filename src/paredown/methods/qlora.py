"""QLoRA: a low-rank adapter trained over NF4 weights, and kept beside them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from paredown.errors import ConfigError, MissingExtraError
from paredown.methods.base import Context, Kind, Method
from paredown.methods.shared.bitsandbytes import (
    check_bitsandbytes,
    nf4_options,
    predict_nf4,
    quantize,
)
from paredown.methods.shared.tuning import (
    AdapterParams,
    adapter_of,
    check_adapter,
    predict_adapter,
    train,
)
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint


class QloraParams(AdapterParams):
    """Parameters of `qlora`."""

    double_quant: Annotated[bool, Choice(True, False)] = True
    """Quantize NF4's scales as well. Of no effect on a model that is NF4 already."""
    skip: tuple[str, ...] = ()
    """Layers that are not quantized. Of no effect on a model that is NF4 already."""


@final
class Qlora(Method[QloraParams]):
    """Quantize to NF4 unless it is done already, and train an adapter, arXiv:2305.14314.

    The adapter learns around the rounding of the weights below it, so it is never merged: the
    merged weights would have to be rounded again.
    """

    name = "qlora"
    kind = Kind.TUNING
    summary = "NF4 weights with a low-rank adapter trained over them and kept beside them"
    params_type = QloraParams
    needs_data = True
    extra = ("peft", "lora")

    def check(self, spec: ModelSpec, params: QloraParams, target: Target) -> None:
        if find_spec("bitsandbytes") is None:
            raise MissingExtraError("method 'qlora'", "bitsandbytes", "int8")
        if spec.quantization is None:
            check_bitsandbytes(spec, params.skip, self.name, kernel="nf4", device=target.device)
        elif not _is_nf4(spec):
            raise ConfigError(
                f"qlora trains over NF4 weights, these are {spec.quantization}; use lora, which "
                "keeps its adapter beside any packed weights"
            )
        check_adapter(self._quantized(spec, params), params, self.name)

    def predict(self, spec: ModelSpec, params: QloraParams) -> ModelSpec:
        return predict_adapter(self._quantized(spec, params), params)

    def _quantized(self, spec: ModelSpec, params: QloraParams) -> ModelSpec:
        if spec.quantization is not None:
            return spec
        return predict_nf4(spec, params.skip, double_quant=params.double_quant)

    def apply(self, source: Checkpoint, out: Path, params: QloraParams, context: Context) -> Tensor:
        from paredown.artifact.checkpoint import Checkpoint

        if source.spec.quantization is None:
            folder = context.scratch / "nf4"
            folder.mkdir(parents=True, exist_ok=True)
            options = nf4_options(source, double_quant=params.double_quant)
            quantize(source, folder, options, params.skip, context)
            source = Checkpoint(folder, name=source.spec.name)
        adapter = adapter_of(source.spec, params)
        return train(source, out, params, context, adapter=adapter, teacher=None)


def _is_nf4(spec: ModelSpec) -> bool:
    return any(t.name.endswith(".weight.quant_map") for t in spec.tensors)
