"""LLM.int8: bitsandbytes' eight-bit weights with outlier columns kept in 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from paredown.methods.base import Context, Kind, Method, Params
from paredown.methods.shared.bitsandbytes import check_bitsandbytes, predict_int8, quantize
from paredown.spec.model import ModelSpec
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint


class Int8Params(Params):
    """Parameters of `int8`."""

    threshold: Annotated[float, Field(ge=0)] = 6.0
    """Activations larger than this keep their column in 16 bits while computing."""
    skip: tuple[str, ...] = ()
    """Layers left as they are: names or wildcards, as in `["*.down_proj"]`."""


@final
class Int8(Method[Int8Params]):
    """Eight-bit weights per row, arXiv:2208.07339, by bitsandbytes."""

    name = "int8"
    kind = Kind.QUANTIZATION
    summary = "LLM.int8 by bitsandbytes; no data needed"
    params_type = Int8Params
    extra = ("bitsandbytes", "int8")

    def check(self, spec: ModelSpec, params: Int8Params, target: Target) -> None:
        check_bitsandbytes(spec, params.skip, self.name, kernel="int8", device=target.device)

    def predict(self, spec: ModelSpec, params: Int8Params) -> ModelSpec:
        return predict_int8(spec, params.skip)

    def apply(self, source: Checkpoint, out: Path, params: Int8Params, context: Context) -> Tensor:
        options = {"load_in_8bit": True, "llm_int8_threshold": params.threshold}
        return quantize(source, out, options, params.skip, context)
