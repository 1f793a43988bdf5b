"""Casts to 16 bits: the first thing to try on a float32 checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

from paredown.errors import ConfigError
from paredown.methods.base import Context, Kind, Method, Params
from paredown.spec.model import ModelSpec, tensor_info
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint

_FLOATS = {"F64", "F32", "F16", "BF16"}


class CastParams(Params):
    """Casts have no parameters."""


def _check(spec: ModelSpec, dtype: str, name: str) -> None:
    if not any(t.dtype in _FLOATS - {dtype} for t in spec.tensors):
        raise ConfigError(f"{name}: the weights are {dtype} already; leave the step out")


def _predict(spec: ModelSpec, dtype: str) -> ModelSpec:
    tensors = [
        tensor_info(t.name, dtype, t.shape) if t.dtype in _FLOATS else t for t in spec.tensors
    ]
    return spec.with_tensors(tensors, dtype=dtype)


def _apply(source: Checkpoint, out: Path, dtype_name: str, context: Context) -> None:
    import torch

    from paredown.artifact.checkpoint import TORCH_DTYPES, CheckpointWriter
    from paredown.errors import NumericsError

    dtype = TORCH_DTYPES[dtype_name]
    with CheckpointWriter(out, source) as writer:
        names = source.names
        for i, name in enumerate(names):
            value = source.read(name)
            if value.is_floating_point():
                value = value.to(dtype)
                if not torch.isfinite(value).all():
                    raise NumericsError(f"{name} does not fit into {dtype_name}; use bf16")
            writer.add(name, value)
            context.progress((i + 1) / len(names), name)
        writer.config["dtype"] = str(dtype).removeprefix("torch.")
        writer.config.pop("torch_dtype", None)


@final
class Bf16(Method[CastParams]):
    """Cast floating-point weights to bfloat16."""

    name = "bf16"
    kind = Kind.QUANTIZATION
    summary = "cast to bfloat16"
    params_type = CastParams

    def check(self, spec: ModelSpec, params: CastParams, target: Target) -> None:
        _check(spec, "BF16", self.name)

    def predict(self, spec: ModelSpec, params: CastParams) -> ModelSpec:
        return _predict(spec, "BF16")

    def apply(
        self, source: Checkpoint, out: Path, params: CastParams, context: Context
    ) -> Tensor | None:
        _apply(source, out, "BF16", context)
        return None


@final
class Fp16(Method[CastParams]):
    """Cast floating-point weights to float16; fails where a weight does not fit."""

    name = "fp16"
    kind = Kind.QUANTIZATION
    summary = "cast to float16"
    params_type = CastParams

    def check(self, spec: ModelSpec, params: CastParams, target: Target) -> None:
        _check(spec, "F16", self.name)
        if spec.dtype == "BF16":
            raise ConfigError(
                "fp16: the weights are BF16; float16 is no smaller and has less range; "
                "leave the step out"
            )

    def predict(self, spec: ModelSpec, params: CastParams) -> ModelSpec:
        return _predict(spec, "F16")

    def apply(
        self, source: Checkpoint, out: Path, params: CastParams, context: Context
    ) -> Tensor | None:
        _apply(source, out, "F16", context)
        return None
