"""Model spec: what is known of a model from its config and its safetensors headers alone."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from paredown.spec.serial import SCHEMA_VERSION

if TYPE_CHECKING:
    from paredown.spec.structure import Structure

DTYPE_BYTES: dict[str, float] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "U16": 2, "U32": 4, "U64": 8,
}  # fmt: skip
"""Bytes of one element, by safetensors dtype name."""


class TensorInfo(BaseModel):
    """One stored tensor, as its safetensors header describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return int(self.numel * DTYPE_BYTES[self.dtype])


class VisionSpec(BaseModel):
    """The vision tower of a multimodal model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: str
    layers: int | None
    hidden_size: int | None
    intermediate_size: int | None
    parameters: int


class ModelSpec(BaseModel):
    """What is known of a model without loading a weight. None = the config does not say."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    schema_version: int = SCHEMA_VERSION
    name: str
    path: Path | None
    """Local folder; None when only remote headers were read."""
    architecture: str
    """Class name in the config, e.g. `LlamaForCausalLM`."""
    model_type: str
    family: str
    """`llama`, `qwen3`, ...; `unknown` where only the config's own words are known."""
    parameters: int
    """Exact count; a tied embedding counts once."""
    active_parameters: int
    """Parameters used per token; smaller than `parameters` for a mixture of experts."""
    layers: int | None
    hidden_size: int | None
    intermediate_size: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    vocabulary: int | None
    context: int | None
    dtype: str
    """Dtype of most parameters, as safetensors names it: `BF16`, `F16`, `F32`, ..."""
    tied_embeddings: bool
    experts: int | None = None
    experts_per_token: int | None = None
    vision: VisionSpec | None = None
    quantization: str | None = None
    """`quant_method` of an already quantized checkpoint, else None."""
    unknown: tuple[str, ...] = ()
    """Facts that neither config nor headers gave, by field name."""
    tensors: tuple[TensorInfo, ...]
    adapter: tuple[TensorInfo, ...] = ()
    """Tensors of a LoRA adapter kept beside packed weights; not counted in `parameters`."""
    packed_shapes: dict[str, tuple[int, ...]] = {}
    """Shapes that packed layers had before, by module name, as far as they are known."""

    @cached_property
    def by_name(self) -> dict[str, TensorInfo]:
        """Tensors by name."""
        return {t.name: t for t in self.tensors}

    @cached_property
    def structure(self) -> Structure:
        """Blocks, linears and MLPs, read off the tensor names."""
        from paredown.spec.structure import find_structure

        return find_structure(self)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all stored tensors, exact; an adapter's included."""
        return sum(t.nbytes for t in (*self.tensors, *self.adapter))

    def with_tensors(self, tensors: list[TensorInfo], **changes: object) -> ModelSpec:
        """This spec with other stored tensors, as a method's prediction needs it."""
        changed = self.model_copy(update={"tensors": tuple(tensors), **changes})
        if changed.quantization is not None and self.quantization is None:
            changed = changed.model_copy(update={"packed_shapes": _shapes_lost(self, changed)})
        for derived in ("by_name", "structure"):  # the copy would hold those of the old tensors
            changed.__dict__.pop(derived, None)
        return changed


def _shapes_lost(before: ModelSpec, after: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of the matrices that are no longer stored as they were."""
    kept = {(t.name, t.dtype, t.shape) for t in after.tensors}
    return {
        t.name.removesuffix(".weight"): t.shape
        for t in before.tensors
        if t.name.endswith(".weight") and (t.name, t.dtype, t.shape) not in kept
    }
