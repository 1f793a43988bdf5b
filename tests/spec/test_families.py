"""Every known family, built tiny by transformers, must be read exactly from its files alone."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

from paredown.spec.families import FAMILIES
from paredown.spec.infer import infer_spec, spec_from
from paredown.spec.model import ModelSpec
from paredown.spec.structure import find_structure

BASE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GQA = {**BASE, "num_key_value_heads": 2}
MOE = {**GQA, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
LANGUAGE: dict[str, dict[str, Any]] = {
    "llama": GQA,
    "mistral": GQA,
    "mixtral": {**GQA, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": {**GQA, "tie_word_embeddings": True},
    "qwen3": {**GQA, "head_dim": 16},
    "qwen2_moe": {**MOE, "num_experts": 4, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {**MOE, "num_experts": 4, "head_dim": 8},
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "vocab_size": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "opt": {
        **{k: v for k, v in BASE.items() if k != "intermediate_size"},
        "ffn_dim": 48,
        "word_embed_proj_dim": 16,
        "max_position_embeddings": 64,
    },
    "phi": BASE,
    "phi3": GQA,
    "gemma": {**GQA, "head_dim": 16},
    "gemma2": {**GQA, "head_dim": 16},
    "gemma3_text": {**GQA, "head_dim": 16},
}
MULTIMODAL = ("llava", "gemma3")


@dataclass(frozen=True)
class Built:
    """A model that transformers built and saved."""

    folder: Path
    parameters: int
    vision_parameters: int

    @property
    def config(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        return loaded


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    import transformers

    root = tmp_path_factory.mktemp("families")
    mapping: Any = transformers.CONFIG_MAPPING
    auto: Any = transformers.AutoModelForCausalLM
    models: dict[str, Any] = {
        name: auto.from_config(mapping[name](**options)) for name, options in LANGUAGE.items()
    }
    text = mapping["llama"](**GQA)
    clip = mapping["clip_vision_model"](**VISION)
    models["llava"] = transformers.LlavaForConditionalGeneration(
        mapping["llava"](text_config=text, vision_config=clip)
    )
    gemma = mapping["gemma3_text"](**LANGUAGE["gemma3_text"]).to_dict()
    siglip = mapping["siglip_vision_model"](**VISION).to_dict()
    models["gemma3"] = transformers.Gemma3ForConditionalGeneration(
        mapping["gemma3"](text_config=gemma, vision_config=siglip, mm_tokens_per_image=4)
    )
    found = {}
    for name, model in models.items():
        model.save_pretrained(root / name)
        tower = model.model.vision_tower if name in MULTIMODAL else None
        found[name] = Built(
            folder=root / name,
            parameters=sum(p.numel() for p in model.parameters()),
            vision_parameters=sum(p.numel() for p in tower.parameters()) if tower else 0,
        )
    return found


@pytest.mark.parametrize("name", [*LANGUAGE, *MULTIMODAL])
def test_counts_are_those_of_the_loaded_model(built: dict[str, Built], name: str) -> None:
    spec = infer_spec(built[name].folder)
    assert spec.parameters == built[name].parameters
    assert spec.unknown == ()
    assert spec.name == name
    assert spec.family == FAMILIES[name].name
    assert spec.dtype == "F32"


@pytest.mark.parametrize("name", [*LANGUAGE, *MULTIMODAL])
def test_shapes_are_those_of_the_config(built: dict[str, Built], name: str) -> None:
    spec = infer_spec(built[name].folder)
    asked = LANGUAGE.get(name, {})
    one_head = asked.get("head_dim", 16 if name == "gemma3" else 8)
    two_groups = "num_key_value_heads" in asked or name in MULTIMODAL
    assert (spec.layers, spec.hidden_size, spec.vocabulary) == (2, 32, 128)
    assert (spec.heads, spec.head_dim) == (4, one_head)
    assert spec.kv_heads == (2 if two_groups else 4)
    width = {"gpt2": 128, "qwen2_moe": 16, "qwen3_moe": 16}.get(name, 48)
    assert spec.intermediate_size == width
    assert len(find_structure(spec).blocks) == 2


@pytest.mark.parametrize("name", [*LANGUAGE, *MULTIMODAL])
def test_context_and_tying_are_those_that_transformers_sees(
    built: dict[str, Built], name: str
) -> None:
    import transformers

    config = transformers.AutoConfig.from_pretrained(built[name].folder)
    spec = infer_spec(built[name].folder)
    assert spec.context == config.get_text_config().max_position_embeddings
    assert spec.tied_embeddings == bool(config.tie_word_embeddings)


def _without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in keys}


SHAPE_FACTS = ("hidden_size", "layers", "intermediate_size", "head_dim", "kv_heads", "vocabulary")
SHAPE_KEYS = (
    "hidden_size", "num_hidden_layers", "intermediate_size", "moe_intermediate_size", "ffn_dim",
    "head_dim", "num_key_value_heads", "vocab_size", "n_embd", "n_layer", "n_inner",
)  # fmt: skip


@pytest.mark.parametrize("name", [*LANGUAGE])
def test_what_the_config_leaves_out_is_read_off_the_shapes(
    built: dict[str, Built], name: str
) -> None:
    full = infer_spec(built[name].folder)
    config = _without(built[name].config, *SHAPE_KEYS)
    bare = spec_from(config, full.tensors, name=name)
    for fact in SHAPE_FACTS:
        assert getattr(bare, fact) == getattr(full, fact), fact


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_active_parameters_leave_out_the_experts_that_rest(
    built: dict[str, Built], name: str
) -> None:
    spec = infer_spec(built[name].folder)
    in_experts = sum(t.numel for t in spec.tensors if ".experts." in t.name)
    assert (spec.experts, spec.experts_per_token) == (4, 2)
    assert spec.active_parameters == spec.parameters - in_experts // 2


def test_fused_experts_count_like_single_ones(built: dict[str, Built]) -> None:
    single = infer_spec(built["mixtral"].folder)
    others = [t for t in single.tensors if ".experts." not in t.name]
    tensor = type(single.tensors[0])
    fused = [
        tensor(name=f"model.layers.{i}.mlp.experts.{part}", dtype="F32", shape=shape)
        for i in range(2)
        for part, shape in (("gate_up_proj", (4, 96, 32)), ("down_proj", (4, 32, 48)))
    ]
    config = _without(built["mixtral"].config, "num_local_experts")
    spec = spec_from(config, [*others, *fused], name="fused")
    assert spec.experts == 4
    assert spec.parameters == single.parameters
    assert spec.active_parameters == single.active_parameters


@pytest.mark.parametrize("name", MULTIMODAL)
def test_vision_tower_is_counted_apart(built: dict[str, Built], name: str) -> None:
    spec = infer_spec(built[name].folder)
    assert spec.vision is not None
    assert spec.vision.parameters == built[name].vision_parameters
    assert (spec.vision.layers, spec.vision.hidden_size) == (3, 32)
    assert spec.vision.intermediate_size == 40
    assert not any("vision" in linear for linear in find_structure(spec).linears)


def test_llava_whose_text_config_says_almost_nothing(built: dict[str, Built]) -> None:
    full = infer_spec(built["llava"].folder)
    config = built["llava"].config
    config["text_config"] = {"model_type": "llama", "num_attention_heads": 4}
    spec = spec_from(config, full.tensors, name="llava")
    changed = {f for f in ModelSpec.model_fields if getattr(spec, f) != getattr(full, f)}
    assert changed == {"path"}


DEFAULT_KEYS = {
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "context": "max_position_embeddings",
    "experts_per_token": "num_experts_per_tok",
    "experts": "num_experts",
}


@pytest.mark.parametrize("name", [*LANGUAGE])
def test_defaults_are_those_of_transformers(name: str) -> None:
    import transformers

    mapping: Any = transformers.CONFIG_MAPPING
    config = mapping[name]()
    family = FAMILIES[name]
    for field, value in family.defaults.items():
        assert value == getattr(config, DEFAULT_KEYS[field]), field
    assert family.tied == config.tie_word_embeddings


@pytest.mark.parametrize("name", ["llava", "llava_next", "llava_onevision", "gemma3"])
def test_inner_model_types_are_those_of_transformers(name: str) -> None:
    import transformers

    mapping: Any = transformers.CONFIG_MAPPING
    config = mapping[name]()
    assert FAMILIES[name].text == config.text_config.model_type
    assert FAMILIES[name].tied == config.tie_word_embeddings
