"""FP8: weights, and activations while computing, as eight-bit floating-point numbers; no data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, final

from paredown.errors import ConfigError
from paredown.methods.base import Context, Kind, Method, Params
from paredown.methods.shared.eight_bit import check_eight_bit, predict_eight_bit
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec
from paredown.spec.structure import select_linears
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint

_NEEDED = (8, 9)
"""CUDA compute capability of the first GPUs that multiply FP8 numbers (Ada; Hopper is 9.0)."""


class Fp8Params(Params):
    """Parameters of `fp8`."""

    activations: Annotated[Literal["dynamic", "none"], Choice("dynamic", "none")] = "dynamic"
    """`dynamic`: activations in FP8 too, with one scale per token; `none`: weights only."""
    skip: tuple[str, ...] = ()
    """Layers left as they are: names or wildcards, as in `["*.down_proj"]`."""


@final
class Fp8(Method[Fp8Params]):
    """E4M3 with one scale per row, arXiv:2209.05433."""

    name = "fp8"
    kind = Kind.QUANTIZATION
    summary = "FP8 (E4M3) weights and activations, on GPUs that have FP8; no data needed"
    params_type = Fp8Params

    def check(self, spec: ModelSpec, params: Fp8Params, target: Target) -> None:
        check_eight_bit(self.name, spec, params.skip, activations=params.activations == "dynamic")
        if target.device == "cpu":
            raise ConfigError(
                "fp8: CPUs have no FP8 arithmetic, the model would only be slower; use "
                "smoothquant or rtn(bits=8), or a GPU"
            )
        if params.activations == "dynamic":
            _require_fp8_gpu()

    def predict(self, spec: ModelSpec, params: Fp8Params) -> ModelSpec:
        return predict_eight_bit(
            spec, params.skip, "F8_E4M3", activations=params.activations == "dynamic"
        )

    def apply(self, source: Checkpoint, out: Path, params: Fp8Params, context: Context) -> Tensor:
        from paredown.artifact.eight_bit import EightBit
        from paredown.blocks.eight_bit import write_eight_bit
        from paredown.blocks.rewrite import probe_walk
        from paredown.ops.eight_bit import FP8

        return write_eight_bit(
            source,
            out,
            walk=probe_walk(
                source, device=context.device, trust_remote_code=context.trust_remote_code
            ),
            chosen=set(select_linears(source.spec, params.skip)),
            how=EightBit(FP8, activations=params.activations == "dynamic"),
            prepare=lambda block, module, weights: {},
            progress=context.progress,
        )


def _require_fp8_gpu() -> None:
    """Refuse where no GPU of this machine multiplies FP8 numbers.

    Raises:
        ConfigError: none was found, or none is new enough.
    """
    from paredown.hardware.detect import detect

    gpus = detect().gpus
    if not gpus:
        raise ConfigError(
            "fp8: no GPU was found to check for FP8 (pip install 'paredown[gpu]' finds NVIDIA's); "
            'use fp8(activations="none") or smoothquant'
        )
    if not any(_version(gpu.compute_capability) >= _NEEDED for gpu in gpus):
        raise ConfigError(
            f"fp8: {gpus[0].name} (compute capability {gpus[0].compute_capability}) cannot "
            'multiply FP8 numbers, which begin at 8.9; use fp8(activations="none") or smoothquant'
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
