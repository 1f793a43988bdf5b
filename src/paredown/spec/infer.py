"""Model specs, inferred from a raw config and tensor headers; no weights, torch or transformers.

Each fact is taken from the first that gives it: the config, the shapes of the stored tensors,
the default of the family. What none of them gives is named in `ModelSpec.unknown`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paredown.errors import ModelError
from paredown.spec.families import FAMILIES, KEYS, TEXT_CONFIGS, VISION_CONFIGS, Family
from paredown.spec.headers import CONFIG, read_config, read_headers, remote_headers
from paredown.spec.model import ModelSpec, TensorInfo, VisionSpec
from paredown.spec.packed import adapter_tensors, packed_shapes

_TOWER = re.compile(r"(^|\.)(vision_tower|vision_model|vision_encoder|image_tower|visual)\.")
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(?P<index>\d+)\.(?P<tail>.+)$")
_EXPERT = re.compile(r"(^|\.)experts\.(?:(?P<index>\d+)\.)?")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings)\.weight$")
_BUFFER = re.compile(
    r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$|\.masked_bias$|(^|\.)position_ids$"
)
_CAUSAL_MASK = re.compile(r"\.(attn|attention)\.bias$")  # GPT-2's (1, 1, context, context)
_PACKED = re.compile(r"\.(qweight|weight_packed)$|_blocks$")
_AUXILIARY = re.compile(
    r"\.(SCB|weight_format|scales|qzeros|g_idx)$|_scales$"
    r"|[._](weight_scale(_inv)?|weight_bitmask|weight_zero_point|weight_shape|weight_g_idx|weight_global_scale)$"
    r"|\.(input|output|k|v|q)_(scale|zero_point|global_scale)$"
    r"|\.weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..+)$"
)
"""What a quantized checkpoint stores beside its codes."""


def infer_spec(folder: Path, *, name: str | None = None) -> ModelSpec:
    """The spec of a local model folder.

    Args:
        folder: holds `config.json` and safetensors files.
        name: how people call the model; the folder's name if None.

    Raises:
        ModelError: no model folder, pickle weights, or files missing or damaged.
    """
    config = read_config(folder)
    called = name or folder.resolve().name
    spec = spec_from(config, read_headers(folder), name=called, path=folder)
    if spec.quantization is None:
        return spec
    return spec.model_copy(
        update={"adapter": adapter_tensors(folder), "packed_shapes": packed_shapes(folder)}
    )


def infer_remote(repo_id: str) -> ModelSpec:
    """The spec of a model on the hub; only its config and headers are read.

    Raises:
        ModelError: offline, no such model, gated, or without safetensors.
    """
    config, tensors = remote_headers(repo_id)
    return spec_from(config, tensors, name=repo_id, path=None)


def spec_from(
    config: Mapping[str, Any],
    tensors: Iterable[TensorInfo],
    *,
    name: str,
    path: Path | None = None,
) -> ModelSpec:
    """The spec of a model from its raw config and its stored tensors.

    Raises:
        ModelError: the config has no `model_type`, or blocks that it tells of are not stored.
    """
    stored = tuple(sorted(tensors, key=lambda tensor: tensor.name))
    reading = _Reading.of(config, stored, name)
    facts = reading.facts()
    tied = reading.is_tied()
    quantization = _Quantization.of(reading)
    counts = _count(stored, tied=tied, quantization=quantization)
    parameters = sum(counts.values())
    experts, per_token = facts.pop("experts"), facts.pop("experts_per_token")
    expert_share = sum(n for tensor, n in counts.items() if _EXPERT.search(tensor))
    active: int | None = parameters
    if expert_share:
        active = parameters - expert_share
        active += expert_share * per_token // experts if experts and per_token else expert_share
    else:
        experts = per_token = None
    unknown = [field for field, value in facts.items() if value is None]
    if expert_share and per_token is None:
        unknown += ["experts_per_token", "active_parameters"]
    if quantization is not None and quantization.unresolved:
        unknown.append("parameters")
    return ModelSpec(
        name=name,
        path=path,
        architecture=reading.architecture,
        model_type=reading.model_type,
        family=reading.family.name if reading.family else "unknown",
        parameters=parameters,
        active_parameters=active,
        dtype=_main_dtype(stored, counts),
        tied_embeddings=tied,
        experts=experts,
        experts_per_token=per_token,
        vision=reading.vision(counts),
        quantization=None if quantization is None else quantization.method,
        unknown=tuple(unknown),
        tensors=stored,
        **facts,
    )


# --- Facts ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """A config and the shapes beside it, ready to be asked for facts."""

    config: Mapping[str, Any]
    text: Mapping[str, Any]
    """The language model's own config: inner fields over outer ones."""
    architecture: str
    model_type: str
    family: Family | None
    text_family: Family | None
    shapes: Mapping[str, tuple[int, ...]]
    """Shapes of the language part by tail: `self_attn.q_proj.weight` of the first block."""
    blocks: int | None
    stored: tuple[TensorInfo, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any], stored: tuple[TensorInfo, ...], name: str) -> _Reading:
        model_type = config.get("model_type")
        if not isinstance(model_type, str) or not model_type:
            raise ModelError(f"{name}: {CONFIG} has no model_type, so this is no language model")
        family = FAMILIES.get(model_type)
        inner = _inner(config, TEXT_CONFIGS)
        fallback = family.text if family and family.text else model_type
        text_type = (inner or {}).get("model_type") or fallback
        language = [t for t in stored if not _TOWER.search(t.name)]
        architectures = config.get("architectures") or ["unknown"]
        reading = cls(
            config=config,
            text={**config, **inner} if inner else config,
            architecture=str(architectures[0]),
            model_type=model_type,
            family=family,
            text_family=FAMILIES.get(text_type),
            shapes=_shapes_by_tail(language),
            blocks=_count_blocks(language),
            stored=stored,
        )
        reading.check_complete(name)
        return reading

    def check_complete(self, name: str) -> None:
        """Refuse a folder of which a whole weights file was lost without an index to tell."""
        told = self.told("layers")
        if self.family and told and self.blocks is not None and self.blocks < told:
            raise ModelError(
                f"{name}: {CONFIG} tells of {told} layers, the weights files hold {self.blocks}; "
                "a weights file is missing: download the model again"
            )

    def told(self, field: str) -> int | None:
        """What the config says, if it is a whole number."""
        keys = KEYS[field]
        if field == "intermediate_size" and self.text_family and self.text_family.expert_width:
            keys = (self.text_family.expert_width, *keys)
        values = (self.text.get(key) for key in keys)
        return next((v for v in values if isinstance(v, int) and not isinstance(v, bool)), None)

    def default(self, field: str) -> int | None:
        return self.text_family.defaults.get(field) if self.text_family else None

    def facts(self) -> dict[str, Any]:
        """Every number of the spec that is read rather than counted; None where unknown."""
        layers = self.told("layers") or self.blocks
        hidden = self.told("hidden_size") or self.dim(
            (0, "input_layernorm.weight", "ln_1.weight", "self_attn_layer_norm.weight"),
            (1, "embed_tokens.weight", "wte.weight"),
        )
        heads = self.told("heads") or self.default("heads")
        head_dim = self.head_dim(heads, hidden)
        return {
            "layers": layers,
            "hidden_size": hidden,
            "intermediate_size": self.intermediate_size(hidden),
            "heads": heads,
            "kv_heads": self.kv_heads(heads, head_dim),
            "head_dim": head_dim,
            "vocabulary": self.told("vocabulary")
            or self.dim((0, "embed_tokens.weight", "wte.weight", "lm_head.weight")),
            "context": self.told("context")
            or self.dim((0, "wpe.weight"))
            or self.default("context"),
            "experts": self.told("experts") or self.stored_experts() or self.default("experts"),
            "experts_per_token": self.told("experts_per_token")
            or self.default("experts_per_token"),
        }

    def dim(self, *places: tuple[int | str, ...]) -> int | None:
        """The size of the first tensor found: each place is (axis, tail, tail, ...)."""
        for axis, *tails in places:
            for tail in tails:
                shape = self.shapes.get(str(tail))
                if shape is not None and isinstance(axis, int) and axis < len(shape):
                    return shape[axis]
        return None

    def head_dim(self, heads: int | None, hidden: int | None) -> int | None:
        told = self.told("head_dim")
        if told or not heads:
            return told
        rows = self.dim((0, "self_attn.q_proj.weight"), (1, "self_attn.o_proj.weight"))
        if rows and rows % heads == 0:
            return rows // heads
        if self.text_family is None:
            return None
        return self.default("head_dim") or (hidden // heads if hidden else None)

    def kv_heads(self, heads: int | None, head_dim: int | None) -> int | None:
        told = self.told("kv_heads")
        if told or not heads or not head_dim:
            return told
        rows = self.dim((0, "self_attn.k_proj.weight"))
        if rows is None and (fused := self.dim((0, "self_attn.qkv_proj.weight"))):
            rows = (fused - heads * head_dim) // 2
        if rows and rows % head_dim == 0:
            return rows // head_dim
        if self.text_family is None:
            return None
        return self.default("kv_heads") or heads

    def intermediate_size(self, hidden: int | None) -> int | None:
        width = self.told("intermediate_size") or self.dim(
            (1, "mlp.down_proj.weight", "mlp.c_fc.weight", "mlp.fc2.weight", "fc2.weight"),
            (1, "block_sparse_moe.experts.0.w2.weight", "mlp.experts.0.down_proj.weight"),
        )
        factor = self.text_family.mlp_factor if self.text_family else None
        return width or (factor * hidden if factor and hidden else None)

    def stored_experts(self) -> int | None:
        """Experts of one layer, from names (one tensor each) or shapes (all in one tensor)."""
        matches = [(m, t) for t in self.stored if (m := _EXPERT.search(t.name))]
        numbers = [int(m["index"]) for m, _ in matches if m["index"] is not None]
        if numbers:
            return max(numbers) + 1
        return next((t.shape[0] for _, t in matches if len(t.shape) == 3), None)

    def is_tied(self) -> bool:
        """Whether the head is the embedding: as told, else by family, else by what is stored."""
        configs = (self.config, _inner(self.config, TEXT_CONFIGS) or {})
        told = [c.get("tie_word_embeddings") for c in configs]
        if any(isinstance(value, bool) for value in told):
            return any(told)
        families = [f for f in (self.family, self.text_family) if f]
        if families:
            return any(family.tied for family in families)
        generates = self.architecture.endswith(("ForCausalLM", "ForConditionalGeneration"))
        return generates and not any(_HEAD.search(t.name) for t in self.stored)

    def vision(self, counts: Mapping[str, int]) -> VisionSpec | None:
        """The vision tower; the projector into the language model is not part of it."""
        tower = [t for t in self.stored if _TOWER.search(t.name)]
        config = _inner(self.config, VISION_CONFIGS)
        if not tower:
            return None
        config = config or {}

        def told(field: str) -> int | None:
            values = (config.get(key) for key in KEYS[field])
            return next((v for v in values if isinstance(v, int)), None)

        return VisionSpec(
            model_type=str(config.get("model_type", "unknown")),
            layers=told("layers") or _count_blocks(tower),
            hidden_size=told("hidden_size"),
            intermediate_size=told("intermediate_size"),
            parameters=sum(counts.get(t.name, 0) for t in tower),
        )


def _inner(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """The first nested config that is there."""
    return next((config[n] for n in names if isinstance(config.get(n), dict)), None)


def _shapes_by_tail(tensors: Iterable[TensorInfo]) -> dict[str, tuple[int, ...]]:
    """Shapes by the name within the block, or by the last two parts outside blocks."""
    found: dict[str, tuple[int, ...]] = {}
    for tensor in tensors:
        match = _BLOCK.search(tensor.name)
        tail = match["tail"] if match else ".".join(tensor.name.split(".")[-2:])
        found.setdefault(tail, tensor.shape)
    return found


def _count_blocks(tensors: Iterable[TensorInfo]) -> int | None:
    numbers = {int(m["index"]) for t in tensors if (m := _BLOCK.search(t.name))}
    return len(numbers) or None


# --- Counts ---------------------------------------------------------------------------------------


@dataclass
class _Quantization:
    """How a quantized checkpoint packs its weights."""

    method: str
    schemes: list[tuple[list[str], dict[str, Any]]]
    """(targets, what is said of their weights); one that targets all where there are no groups."""
    unresolved: bool = False
    """Set when a packed tensor was met whose logical size the headers do not tell."""

    @classmethod
    def of(cls, reading: _Reading) -> _Quantization | None:
        config = reading.text.get("quantization_config")
        if not isinstance(config, dict):
            return None
        groups = config.get("config_groups")
        schemes = [
            (list(group.get("targets") or ["Linear"]), group["weights"])
            for group in (groups.values() if isinstance(groups, dict) else ())
            if isinstance(group, dict) and isinstance(group.get("weights"), dict)
        ] or [(["Linear"], config)]
        method = config.get("quant_method") or config.get("format") or "unknown"
        return cls(method=str(method), schemes=schemes)

    def _scheme(self, layer: str) -> tuple[int | None, int | None]:
        """Bits and group size of a layer, each where all schemes that may apply agree."""
        found = [s for targets, s in self.schemes if any(_targets(t, layer) for t in targets)]
        bits = {s.get("num_bits", s.get("bits", s.get("w_bit"))) for s in found}
        return _only_positive(bits), _only_positive({s.get("group_size") for s in found})

    def logical(self, tensor: TensorInfo, stored: Mapping[str, TensorInfo]) -> int:
        """Weights that a stored tensor stands for."""
        mask = stored.get(f"{tensor.name}_bitmask")
        if mask is not None:  # only the values that are not zero are stored
            return 8 * mask.numel
        if tensor.dtype == "U8":  # two 4-bit codes per byte: bitsandbytes, NVFP4, MXFP4
            return 2 * tensor.numel
        if not _PACKED.search(tensor.name):
            return tensor.numel
        bits, group_size = self._scheme(tensor.name.rpartition(".")[0])
        scale = stored.get(tensor.name.replace("weight_packed", "weight_scale"))
        if scale is not None and scale.name != tensor.name and group_size:
            return scale.numel * group_size
        order = stored.get(tensor.name.replace("qweight", "g_idx"))
        if order is not None and order.name != tensor.name:
            return order.numel * tensor.shape[-1]
        if bits is None:
            self.unresolved = True
            return tensor.numel
        return tensor.numel * 32 // bits  # 32-bit words, packed without gaps


def _targets(target: str, layer: str) -> bool:
    """Whether a target of a quantization config names a layer: a class, a name, or a pattern."""
    if target.startswith("re:"):
        return re.match(target[3:], layer) is not None
    return target == layer or ("." not in target and target[:1].isupper())


def _only_positive(values: set[Any]) -> int | None:
    """The one value of all schemes, if they agree on a positive whole number."""
    value = next(iter(values)) if len(values) == 1 else None
    return value if isinstance(value, int) and value > 0 else None


def _count(
    stored: Sequence[TensorInfo], *, tied: bool, quantization: _Quantization | None
) -> dict[str, int]:
    """Parameters by tensor name; buffers, scales and the second copy of a tied head left out."""
    by_name = {tensor.name: tensor for tensor in stored}
    has_embedding = any(_EMBEDDING.search(name) for name in by_name)
    counts: dict[str, int] = {}
    for tensor in stored:
        if is_buffer(tensor) or (tied and has_embedding and _HEAD.search(tensor.name)):
            continue
        if quantization is None:
            counts[tensor.name] = tensor.numel
        elif not _AUXILIARY.search(tensor.name):
            counts[tensor.name] = quantization.logical(tensor, by_name)
    return counts


def is_buffer(tensor: TensorInfo) -> bool:
    """Whether a stored tensor is no weight, but what a model computes: masks, frequencies."""
    is_mask = _CAUSAL_MASK.search(tensor.name) and len(tensor.shape) > 2
    return bool(tensor.dtype in {"BOOL", "I64"} or is_mask or _BUFFER.search(tensor.name))


def _main_dtype(stored: Sequence[TensorInfo], counts: Mapping[str, int]) -> str:
    weight: Counter[str] = Counter()
    for tensor in stored:
        weight[tensor.dtype] += counts.get(tensor.name, 0)
    return weight.most_common(1)[0][0] if weight else "unknown"
