"""Shapes that the config tells of and the files do not hold: two models in one folder.

Each would be found late, by a loader in the middle of a run, or never: what the config calls the
number of heads decides how a stored matrix is cut up, not whether it can be.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from paredown.errors import ModelError
from paredown.spec.families import FAMILIES
from paredown.spec.headers import CONFIG
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.structure import is_vision

_BLOCK = re.compile(r"(?:^|\.)(?:layers|h)\.\d+\.(?P<tail>.+)\.weight$")
_OUTSIDE = re.compile(r"(?:^|\.)(?P<tail>embed_tokens|wte|lm_head)\.weight$")
_FLOATS = {"F64", "F32", "F16", "BF16"}
"""Dtypes of weights that are stored as they are; packed ones have shapes of their own."""

_Size = tuple[str, Callable[[ModelSpec], int | None]]
"""A size in the config's words, and its value."""


def _times(*fields: str, factor: int = 1) -> _Size:
    """The product of some fields of a spec, by its names of them."""

    def value(spec: ModelSpec) -> int | None:
        product = factor
        for name in fields:
            number: int | None = getattr(spec, name)
            if number is None:
                return None
            product *= number
        return product

    words = " x ".join(_WORDS[name] for name in fields)
    return (words if factor == 1 else f"{factor} x {words}", value)


def _fused_heads(spec: ModelSpec) -> int | None:
    if spec.heads is None or spec.kv_heads is None or spec.head_dim is None:
        return None
    return (spec.heads + 2 * spec.kv_heads) * spec.head_dim


_WORDS = {
    "hidden_size": "hidden size", "intermediate_size": "MLP width", "heads": "attention heads",
    "kv_heads": "key-value heads", "head_dim": "head dimension", "vocabulary": "vocabulary",
}  # fmt: skip
_HIDDEN, _WIDTH = _times("hidden_size"), _times("intermediate_size")
_QUERY, _KEY = _times("heads", "head_dim"), _times("kv_heads", "head_dim")
_QKV: _Size = ("(attention heads + 2 x key-value heads) x head dimension", _fused_heads)
_TABLE: dict[str, tuple[_Size, _Size]] = {
    "self_attn.q_proj": (_QUERY, _HIDDEN),
    "self_attn.k_proj": (_KEY, _HIDDEN),
    "self_attn.v_proj": (_KEY, _HIDDEN),
    "self_attn.o_proj": (_HIDDEN, _QUERY),
    "self_attn.qkv_proj": (_QKV, _HIDDEN),
    "self_attn.out_proj": (_HIDDEN, _HIDDEN),
    "mlp.gate_proj": (_WIDTH, _HIDDEN),
    "mlp.up_proj": (_WIDTH, _HIDDEN),
    "mlp.gate_up_proj": (_times("intermediate_size", factor=2), _HIDDEN),
    "mlp.down_proj": (_HIDDEN, _WIDTH),
    "mlp.fc1": (_WIDTH, _HIDDEN),
    "mlp.fc2": (_HIDDEN, _WIDTH),
    "fc1": (_WIDTH, _HIDDEN),
    "fc2": (_HIDDEN, _WIDTH),
    # GPT-2 stores its matrices the other way round.
    "attn.c_attn": (_HIDDEN, _times("hidden_size", factor=3)),
    "attn.c_proj": (_HIDDEN, _HIDDEN),
    "mlp.c_fc": (_HIDDEN, _WIDTH),
    "mlp.c_proj": (_WIDTH, _HIDDEN),
    "embed_tokens": (_times("vocabulary"), _HIDDEN),
    "wte": (_times("vocabulary"), _HIDDEN),
    "lm_head": (_times("vocabulary"), _HIDDEN),
}
"""Rows and columns, by the module's name within its block or, outside of blocks, its last part."""


def require_shapes(spec: ModelSpec) -> None:
    """Refuse a model whose matrices do not have the shapes that its config tells of.

    Only families whose tensors are known are looked at, and of these only weights that are not
    packed; a size that neither config nor family tells is taken from the first block, so that then
    the blocks are compared with each other.

    Raises:
        ModelError: names the tensor, both shapes, and what in the config makes the difference.
    """
    if spec.family not in {family.name for family in FAMILIES.values()}:
        return
    if spec.heads and spec.kv_heads and spec.heads % spec.kv_heads:
        raise ModelError(
            f"{spec.name}: {CONFIG} tells of {spec.heads} attention heads, which {spec.kv_heads} "
            "key-value heads cannot share evenly; correct it, or download the model again"
        )
    for tensor in spec.tensors:
        if tensor.dtype in _FLOATS and len(tensor.shape) == 2 and not is_vision(tensor.name):
            _require_shape(spec, tensor)


def _require_shape(spec: ModelSpec, tensor: TensorInfo) -> None:
    match = _BLOCK.search(tensor.name) or _OUTSIDE.search(tensor.name)
    sizes = _TABLE.get(match["tail"]) if match else None
    if sizes is None:
        return
    for axis, (stored, size) in enumerate(zip(tensor.shape, sizes, strict=True)):
        words, value = size
        told = value(spec)
        if told is None or told == stored or _is_free(spec, tensor.name, size):
            continue
        parts = ("rows", "columns")[axis]
        raise ModelError(
            f"{spec.name}: {tensor.name} has {stored} {parts}, where {CONFIG} makes it {told} "
            f"({words}); config and weights are of different models: download both again"
        )


def _is_free(spec: ModelSpec, name: str, size: _Size) -> bool:
    """Whether a size of this tensor may be another one than the config's in this model."""
    if size in (_WIDTH, _TABLE["mlp.gate_up_proj"][0]):
        # Pruned MLPs, and the shared experts and dense blocks of a mixture, have their own.
        return spec.uneven_mlps or spec.experts is not None
    # OPT's smaller models project their embeddings from another width.
    return spec.model_type == "opt" and size is _HIDDEN and _OUTSIDE.search(name) is not None
