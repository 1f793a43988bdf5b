"""NF4: four-bit codes on the quantiles of a normal distribution, by bitsandbytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from paredown.methods.base import Context, Kind, Method, Params
from paredown.methods.shared.bitsandbytes import (
    check_bitsandbytes,
    nf4_options,
    predict_nf4,
    quantize,
)
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint


class Nf4Params(Params):
    """Parameters of `nf4`."""

    double_quant: Annotated[bool, Choice(True, False)] = True
    """Quantize the scales as well: 0.4 bits a weight less, at hardly any cost in quality."""
    skip: tuple[str, ...] = ()
    """Layers left as they are: names or wildcards, as in `["*.down_proj"]`."""


@final
class Nf4(Method[Nf4Params]):
    """NormalFloat codes in blocks of 64 weights, arXiv:2305.14314, by bitsandbytes."""

    name = "nf4"
    kind = Kind.QUANTIZATION
    summary = "4-bit NormalFloat by bitsandbytes; no data needed"
    params_type = Nf4Params
    extra = ("bitsandbytes", "int8")

    def check(self, spec: ModelSpec, params: Nf4Params, target: Target) -> None:
        check_bitsandbytes(spec, params.skip, self.name, kernel="nf4", device=target.device)

    def predict(self, spec: ModelSpec, params: Nf4Params) -> ModelSpec:
        return predict_nf4(spec, params.skip, double_quant=params.double_quant)

    def apply(self, source: Checkpoint, out: Path, params: Nf4Params, context: Context) -> Tensor:
        options = nf4_options(source, double_quant=params.double_quant)
        return quantize(source, out, options, params.skip, context)
