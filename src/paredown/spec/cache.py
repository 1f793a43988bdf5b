"""What a model keeps of the tokens it has read: keys and values, latents, states. No torch.

Numbers, not bytes, because engines differ: in the dtype of the cache, and in whether a sliding
layer keeps its window or everything.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from paredown.spec.cache_facts import LayerKind
from paredown.spec.model import ModelSpec
from paredown.spec.structure import is_vision

_BLOCK = re.compile(r"^(?:.*\.)?(?:layers|h|blocks|block)\.(?P<index>\d+)\.(?P<tail>.+)$")
_LATENT = "kv_a_proj_with_mqa"
_STATE = re.compile(r"(^|\.)(mamba|linear_attn|short_conv|conv|mixer\.A_log|A_log)(\.|$)")
_ATTENTION = re.compile(
    r"(^|\.)(self_attn|self_attention|attention|attn|mixer)\."
    r"(k_proj|qkv_proj|c_attn|query_key_value|qkv|Wqkv|k|key)\b"
)


@dataclass(frozen=True, kw_only=True)
class LayerCache:
    """What each of some layers that are alike keeps of one sequence.

    Attributes:
        layers: how many are alike.
        per_token: numbers for each token within reach.
        window: tokens within reach; None: all of them.
        constant: numbers whatever the length.
        constant32: numbers whatever the length that take 32 bits in every engine.
        heads: key-value heads, each of which can lie on a device of its own; None: every device
            needs all of it.
    """

    layers: int
    per_token: int = 0
    window: int | None = None
    constant: int = 0
    constant32: int = 0
    heads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Caches:
    """What all layers keep.

    Attributes:
        layers: groups of layers that are alike.
        unknown: why it cannot be said; empty where it can.
    """

    layers: tuple[LayerCache, ...] = ()
    unknown: str = ""

    def nbytes(
        self, tokens: int, *, number_bytes: float = 2, windows: bool = True, devices: int = 1
    ) -> float:
        """Bytes for one sequence of so many tokens, on each of the devices that share its heads.

        Args:
            number_bytes: of one number.
            windows: whether a sliding layer keeps its window only, or everything.
            devices: over which key-value heads are spread (tensor parallelism). Heads that are
                fewer are replicated, and so is what has no heads.
        """
        total = 0.0
        for group in self.layers:
            reach = tokens if group.window is None or not windows else min(tokens, group.window)
            share = 1.0 if group.heads is None else -(-group.heads // devices) / group.heads
            numbers = share * group.per_token * reach + group.constant
            total += group.layers * (numbers * number_bytes + 4 * group.constant32)
        return total


def find_caches(spec: ModelSpec) -> Caches:
    """What the layers of a model keep, as far as its config and the names of its tensors tell.

    Shapes of stored key and value projections go before the config's numbers, layer by layer:
    heads that were pruned, or that differ between layers, are counted as they are.
    """
    if find_caches not in spec.derived:
        spec.derived[find_caches] = _find(spec)
    found: Caches = spec.derived[find_caches]
    return found


def _find(spec: ModelSpec) -> Caches:
    facts = spec.cache_facts
    if facts.unknown:
        return Caches(unknown=facts.unknown)
    blocks = _rows_of_blocks(spec)
    if not blocks and spec.layers is None:
        return Caches(unknown="no layers were found")
    count = spec.layers or len(blocks)
    # Behind a method that drops blocks there are more kinds than layers; which ones went is not
    # known beforehand, and predictions take the first.
    kinds = facts.kinds[-count:] if facts.kinds else ()
    groups: Counter[LayerCache] = Counter()
    for place in range(count):
        rows = blocks.get(place, {})
        kind: LayerKind = kinds[place] if place < len(kinds) else _kind_of(rows)
        if facts.shared and place >= count - facts.shared:
            kind = "none"
        layer = _layer(spec, kind, rows)
        if isinstance(layer, str):
            return Caches(unknown=layer)
        groups[layer] += 1
    return Caches(
        layers=tuple(
            replace(layer, layers=n)
            for layer, n in groups.items()
            if layer.per_token or layer.constant or layer.constant32
        )
    )


def _kind_of(rows: Mapping[str, int | None]) -> LayerKind:
    """The kind of a block that the config says nothing of, from the names of its tensors."""
    if not rows or any(_LATENT in tail or _ATTENTION.search(tail) for tail in rows):
        return "full"
    if any(_STATE.search(tail) for tail in rows):
        return "state"
    told = any(word in tail for tail in rows for word in ("attn", "attention"))
    return "full" if told else "none"


def _layer(spec: ModelSpec, kind: LayerKind, rows: Mapping[str, int | None]) -> LayerCache | str:
    """One layer's cache, or why it cannot be said."""
    facts = spec.cache_facts
    constant, constant32 = (facts.state, facts.state32) if kind in {"state", "both"} else (0, 0)
    if kind == "state" and not (constant or constant32):
        return "its layers keep a state whose size the config does not tell"
    if kind in {"state", "none"}:
        return LayerCache(layers=1, constant=constant, constant32=constant32)
    if facts.latent is not None:
        return LayerCache(layers=1, per_token=facts.latent)
    if spec.kv_heads is None or spec.head_dim is None:
        return "neither config nor tensors tell how many heads keys and values have"
    told = 2 * spec.kv_heads * spec.head_dim
    per_token = _stored(rows) or told
    # Layers with other shapes than the config's: as many heads as rows, all of one width.
    heads = spec.kv_heads if per_token == told else max(1, per_token // (2 * spec.head_dim))
    window = facts.window if kind == "sliding" else None
    return LayerCache(
        layers=1, per_token=per_token, window=window, heads=heads, constant=constant,
        constant32=constant32,
    )  # fmt: skip


def _stored(rows: Mapping[str, int | None]) -> int | None:
    """Rows of the key and the value projection; None where they are not stored apart."""
    keys = next((n for tail, n in rows.items() if tail.endswith("attn.k_proj.weight")), None)
    values = next((n for tail, n in rows.items() if tail.endswith("attn.v_proj.weight")), None)
    if keys is None:
        return None
    # Where values are made by the keys' own matrix, they are kept beside them all the same.
    return keys + (values or keys)


def _rows_of_blocks(spec: ModelSpec) -> dict[int, dict[str, int | None]]:
    """Tensors of each block by the end of their names, with their rows; None where packed."""
    blocks: dict[int, dict[str, int | None]] = {}
    shapes: dict[str, int | None] = {
        t.name: t.shape[0] if t.dtype in {"F64", "F32", "F16", "BF16"} and t.shape else None
        for t in spec.tensors
    }
    shapes |= {f"{name}.weight": shape[0] for name, shape in spec.packed_shapes.items() if shape}
    for name, rows in shapes.items():
        match = _BLOCK.match(name)
        if match is not None and not is_vision(name):
            blocks.setdefault(int(match["index"]), {})[match["tail"]] = rows
    return blocks
