"""Model spec: what is known of a model from its config and its safetensors headers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict

from paredown.spec.cache_facts import CacheFacts
from paredown.spec.layers import LayerOption
from paredown.spec.serial import SCHEMA_VERSION

if TYPE_CHECKING:
    from paredown.spec.structure import Structure

DTYPE_BYTES: dict[str, float] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "U16": 2, "U32": 4, "U64": 8,
}  # fmt: skip
"""Bytes of one element, by safetensors dtype name."""


@lru_cache(maxsize=10_000)
def _nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    return int(math.prod(shape) * DTYPE_BYTES[dtype])


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
        return _nbytes(self.dtype, self.shape)


@lru_cache(maxsize=50_000)
def tensor_info(name: str, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    """A `TensorInfo`; the same one for the same words, because planning predicts a thousand
    strategies whose tensors are mostly alike."""
    return TensorInfo(name=name, dtype=dtype, shape=shape)


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
    text_type: str = ""
    """`model_type` of the language model: another one where it stands behind a vision tower."""
    family: str
    """`llama`, `qwen3`, ...; the `model_type` where nothing else is known of it."""
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
    expert_groups: int = 1
    """Groups of neighbouring experts, of which a token first chooses some (DeepSeek)."""
    groups_per_token: int = 1
    """How many of them."""
    vision: VisionSpec | None = None
    quantization: str | None = None
    """`quant_method` of an already quantized checkpoint, else None."""
    unknown: tuple[str, ...] = ()
    """Facts that neither config nor headers gave, by field name."""
    cache_facts: CacheFacts = CacheFacts()
    """What is kept of the tokens read, as far as the config says it; see `spec.cache`."""
    tensors: tuple[TensorInfo, ...]
    adapter: tuple[TensorInfo, ...] = ()
    """Tensors of a LoRA adapter kept beside packed weights; not counted in `parameters`."""
    packed_shapes: dict[str, tuple[int, ...]] = {}
    """Shapes that packed layers had before, by module name, as far as they are known."""
    options: dict[str, LayerOption] = {}
    """What each layer is stored as that is not plain floating point, by module name."""
    uneven_mlps: bool = False
    """Whether the config tells of MLPs of several widths, which only `paredown.load` builds."""

    def __repr__(self) -> str:
        return f"ModelSpec({self.name}: {self.architecture}, {self.parameters:,} parameters)"

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        from paredown.spec.card import model_card

        return model_card(self)

    @cached_property
    def by_name(self) -> dict[str, TensorInfo]:
        """Tensors by name."""
        return {t.name: t for t in self.tensors}

    @cached_property
    def structure(self) -> Structure:
        """Blocks, linears and MLPs, read off the tensor names."""
        from paredown.spec.structure import find_structure

        return find_structure(self)

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of all stored tensors, exact; an adapter's included."""
        every = (*self.tensors, *self.adapter)
        return sum(_nbytes(t.dtype, t.shape) for t in every)

    @cached_property
    def derived(self) -> dict[Any, Any]:
        """What functions have worked out from this spec and may find here again."""
        return {}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, without what was worked out from the fields before they changed."""
        changed = super().model_copy(update=update, deep=deep)
        for name in ("by_name", "structure", "weight_bytes", "derived"):
            changed.__dict__.pop(name, None)
        return changed

    def with_tensors(self, tensors: list[TensorInfo], **changes: object) -> ModelSpec:
        """This spec with other stored tensors, as a method's prediction needs it."""
        changed = self.model_copy(update={"tensors": tuple(tensors), **changes})
        if changed.quantization is not None and self.quantization is None:
            changed = changed.model_copy(update={"packed_shapes": _shapes_lost(self, changed)})
        return changed


def _is_same(one: TensorInfo | None, other: TensorInfo) -> bool:
    return one is other or (one is not None and one == other)


def _shapes_lost(before: ModelSpec, after: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of the matrices that are no longer stored as they were."""
    stored = {t.name: t for t in after.tensors}
    return {
        t.name.removesuffix(".weight"): t.shape
        for t in before.tensors
        if t.name.endswith(".weight") and not _is_same(stored.get(t.name), t)
    }
