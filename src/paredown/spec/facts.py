"""Facts of a model, each taken from the first that gives it: config, stored shapes, family."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paredown.errors import ModelError
from paredown.spec.families import FAMILIES, GROUPED, KEYS, TEXT_CONFIGS, VISION_CONFIGS, Family
from paredown.spec.headers import CONFIG
from paredown.spec.model import TensorInfo, VisionSpec

_TOWER = re.compile(r"(^|\.)(vision_tower|vision_model|vision_encoder|image_tower|visual)\.")
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(?P<index>\d+)\.(?P<tail>.+)$")
_COUNTED = ("layers", "hidden_size", "heads", "kv_heads", "head_dim", "vocabulary")
"""Facts of which no model has none."""
EXPERT = re.compile(r"(^|\.)experts\.(?:(?P<index>\d+)\.)?")
HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")


@dataclass(frozen=True)
class Reading:
    """A config and the shapes beside it, ready to be asked for facts."""

    config: Mapping[str, Any]
    text: Mapping[str, Any]
    """The language model's own config: inner fields over outer ones."""
    architecture: str
    model_type: str
    text_type: str
    """`model_type` of the language model."""
    family: Family | None
    text_family: Family | None
    shapes: Mapping[str, tuple[int, ...]]
    """Shapes of the language part by tail: `self_attn.q_proj.weight` of the first block."""
    blocks: int | None
    stored: tuple[TensorInfo, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any], stored: tuple[TensorInfo, ...], name: str) -> Reading:
        model_type = config.get("model_type")
        if not isinstance(model_type, str) or not model_type:
            raise ModelError(f"{name}: {CONFIG} has no model_type, so this is no language model")
        family = FAMILIES.get(model_type)
        inner = _inner(config, TEXT_CONFIGS)
        text_type = language_type(config)
        language = [t for t in stored if not _TOWER.search(t.name)]
        architectures = config.get("architectures") or ["unknown"]
        reading = cls(
            config=config,
            text={**config, **inner} if inner else config,
            architecture=str(architectures[0]),
            model_type=model_type,
            text_type=text_type,
            family=family,
            text_family=FAMILIES.get(text_type),
            shapes=_shapes_by_tail(language),
            blocks=_count_blocks(language),
            stored=stored,
        )
        reading.check_complete(name)
        return reading

    def check_complete(self, name: str) -> None:
        """Refuse a folder of which a whole weights file was lost without an index to tell, and a
        config that tells of nothing or of another number of layers."""
        for key in (key for keys in KEYS.values() for key in keys):
            value = self.text.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value < 0:
                raise ModelError(f"{name}: {CONFIG} tells of {key} {value}; download it again")
        for field in _COUNTED:
            if self.family and self.told(field) == 0:
                raise ModelError(
                    f"{name}: {CONFIG} tells of no {field.replace('_', ' ')} (0); download it again"
                )
        told = self.told("layers")
        if self.family and told and self.blocks is not None and self.blocks < told:
            raise ModelError(
                f"{name}: {CONFIG} tells of {told} layers, the weights files hold {self.blocks}; "
                "a weights file is missing: download the model again"
            )
        told = told and told + (_number(self.text, "num_nextn_predict_layers") or 0)
        if self.family and told and self.blocks is not None and self.blocks > told:
            raise ModelError(
                f"{name}: {CONFIG} tells of {told} layers, the weights files hold {self.blocks}; "
                "a loader would leave the others out: correct it, or download the model again"
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
        matches = [(m, t) for t in self.stored if (m := EXPERT.search(t.name))]
        numbers = [int(m["index"]) for m, _ in matches if m["index"] is not None]
        if numbers:
            return max(numbers) + 1
        return next((t.shape[0] for _, t in matches if len(t.shape) == 3), None)

    def expert_groups(self) -> tuple[int, int]:
        """Groups that the experts of a block are in, and how many of them a token chooses."""
        fields = ("expert_groups", "groups_per_token")
        defaults = GROUPED.get(self.text_type, (1, 1))
        # Written as null there are none; left out, it is what the class has.
        is_told = any(key in self.text for key in KEYS[fields[0]])
        groups, chosen = (
            self.told(field) or (1 if is_told else default)
            for field, default in zip(fields, defaults, strict=True)
        )
        return groups, chosen

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
        return generates and not any(HEAD.search(t.name) for t in self.stored)

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


def language_type(config: Mapping[str, Any]) -> str:
    """`model_type` of the language model that a config tells of."""
    model_type = str(config.get("model_type"))
    family = FAMILIES.get(model_type)
    inner = _inner(config, TEXT_CONFIGS) or {}
    return str(inner.get("model_type") or (family.text if family else None) or model_type)


def _number(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


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
