"""Which layers of a block read one input, and what makes it: where factors can move between them.

Dividing what makes an input by positive factors, and multiplying the readers' columns by them,
changes no output. A norm takes the factors in its gain; an up projection in its rows, because the
MLP is linear in them; a value projection in its rows, because attention only mixes tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from paredown.spec.model import ModelSpec
from paredown.spec.structure import ATTENTION_INPUTS, MLP_INPUTS, Block

GAIN_OFFSET = {
    "llama": 0.0, "mistral": 0.0, "ministral": 0.0, "qwen2": 0.0, "qwen3": 0.0, "granite": 0.0,
    "smollm3": 0.0, "seed_oss": 0.0, "helium": 0.0, "ernie4_5": 0.0, "hunyuan_v1_dense": 0.0,
    "qwen2_vl_text": 0.0, "qwen2_5_vl_text": 0.0, "qwen3_vl_text": 0.0, "mllama_text_model": 0.0,
    "gemma": 1.0, "gemma2": 1.0, "gemma3_text": 1.0,
}  # fmt: skip
"""Language models (`model_type`) whose blocks are joined as below -> what their norms add to the
stored gain."""

_ATTENTION_NORM = "input_layernorm"
_MLP_NORMS = ("pre_feedforward_layernorm", "post_attention_layernorm")
"""The norm before the MLP: the first of these that a block has."""


@dataclass(frozen=True)
class Fold:
    """Layers with one input, and the norm or layer that makes it. All are module names."""

    maker: str
    readers: tuple[str, ...]
    gain_offset: float | None
    """Added to a norm's stored gain; None where the maker is a linear layer."""
    head_dim: int = 0
    """Features of one head, where heads share the maker's rows."""
    repeat: int = 1
    """Heads of the readers' input that come from one head of the maker."""

    def rows(self, width: int) -> list[int]:
        """The maker's row that makes each of the readers' `width` input features."""
        if self.repeat == 1:
            return list(range(width))
        span = self.head_dim * self.repeat
        return [j // span * self.head_dim + j % self.head_dim for j in range(width)]


def find_folds(spec: ModelSpec, block: Block, chosen: Collection[str]) -> tuple[Fold, ...]:
    """The folds of a block in which only layers of `chosen` change; none for unknown families."""
    offset = GAIN_OFFSET.get(spec.text_type)
    if offset is None:
        return ()
    attention, mlp = f"{block.prefix}.self_attn", f"{block.prefix}.mlp"
    queries = tuple(f"{attention}.{leaf}" for leaf in ATTENTION_INPUTS)
    inputs = tuple(f"{mlp}.{leaf}" for leaf in MLP_INPUTS)
    found = [
        Fold(f"{block.prefix}.{_ATTENTION_NORM}", queries, offset),
        Fold(f"{block.prefix}.{_mlp_norm(spec, block)}", inputs, offset),
        Fold(f"{mlp}.up_proj", (f"{mlp}.down_proj",), None),
        *_values(spec, f"{attention}.v_proj", f"{attention}.o_proj"),
    ]
    stored = spec.by_name
    return tuple(
        fold
        for fold in found
        if all(name in chosen for name in fold.readers)
        and (fold.maker in chosen if fold.gain_offset is None else True)
        and f"{fold.maker}.weight" in stored
    )


def _mlp_norm(spec: ModelSpec, block: Block) -> str:
    names = (n for n in _MLP_NORMS if f"{block.prefix}.{n}.weight" in spec.by_name)
    return next(names, _MLP_NORMS[-1])


def _values(spec: ModelSpec, values: str, output: str) -> list[Fold]:
    """Values to attention output, where the heads' shapes say which row makes which feature."""
    made, read = spec.by_name.get(f"{values}.weight"), spec.by_name.get(f"{output}.weight")
    if made is None or read is None or not spec.head_dim:
        return []
    rows, width = made.shape[0], read.shape[1]
    if width % rows or rows % spec.head_dim:
        return []
    return [Fold(values, (output,), None, head_dim=spec.head_dim, repeat=width // rows)]
