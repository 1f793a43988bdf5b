"""Folders in which weights are missing, misnamed or there twice are refused from their headers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import paredown
from paredown.errors import ModelError
from paredown.runtimes.torch.load import load_dense
from paredown.spec.infer import infer_spec
from paredown.testing.tiny import tiny_model

Tensors = dict[str, Tensor]


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {k: v for k, v in tensors.items() if part not in k}


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {k.replace(old, new): v for k, v in tensors.items()}


CHANGES: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "one matrix gone": (without("1.mlp.up_proj"), r"block 1 has no mlp\.up_proj\.weight"),
    "one norm gone": (without("0.input_layernorm"), r"block 0 has no input_layernorm\.weight"),
    "one misnamed": (renamed("1.mlp.up_proj", "1.mlp.upproj"), r"block 0 has no mlp\.upproj"),
    "untied head gone": (without("lm_head"), r"no output head is stored \(lm_head\.weight\)"),
    "training wrapper": (lambda t: {f"module.{k}": v for k, v in t.items()}, "with 'module"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_missing_is_told_before_anything_is_loaded(tmp_path: Path, name: str) -> None:
    change, words = CHANGES[name]
    folder = rewrite(tiny_model(tmp_path), change)
    with pytest.raises(ModelError, match=words):
        infer_spec(folder)
    with pytest.raises(ModelError, match=words):
        paredown.load(folder)


@pytest.mark.parametrize("loader", [paredown.load, load_dense])
@pytest.mark.parametrize(
    ("name", "gone"), [("olmo2", "model.norm"), ("gpt_neox", "final_layer_norm.weight")]
)
def test_a_loader_never_makes_weights_up(
    tmp_path: Path, loader: Callable[[Path], object], name: str, gone: str
) -> None:
    """A family whose names are not known: headers cannot tell, so the loader does."""
    folder = rewrite(tiny_model(tmp_path, name), without(gone))
    infer_spec(folder)
    with pytest.raises(ModelError, match=r"1 weights are missing, the first is .*norm"):
        loader(folder)


def test_a_head_that_is_tied_and_stored_otherwise_is_refused_with_the_cause(
    tmp_path: Path,
) -> None:
    def another_head(tensors: Tensors) -> Tensors:
        table = tensors["model.embed_tokens.weight"]
        return {**tensors, "lm_head.weight": table.flip(0).contiguous()}

    folder = rewrite(tiny_model(tmp_path, tie_word_embeddings=True), another_head)
    with pytest.raises(ModelError, match=r"ties the output head .* another lm_head\.weight"):
        infer_spec(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    assert not infer_spec(folder).tied_embeddings  # the way out that the message names


def test_a_stored_copy_of_a_tied_head_is_harmless(tmp_path: Path) -> None:
    def copied(tensors: Tensors) -> Tensors:
        return {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}

    folder = rewrite(tiny_model(tmp_path, tie_word_embeddings=True), copied)
    assert infer_spec(folder).tied_embeddings
    ids = torch.arange(1, 17)[None]
    assert torch.equal(paredown.load(folder)(ids).logits, load_dense(folder)(ids).logits)


def configured(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


MISMATCHES: dict[str, tuple[str, dict[str, Any], str]] = {
    "hidden": (
        "llama",
        {"hidden_size": 128},
        r"lm_head\.weight has 64 columns.* 128 \(hidden",
    ),
    "mlp": (
        "llama",
        {"intermediate_size": 192},
        r"0\.mlp\.down_proj\.weight has 160 col.*192",
    ),
    "vocabulary": ("llama", {"vocab_size": 130}, r"lm_head\.weight has 128 rows, .*130 \(vocab"),
    "groups": ("llama", {"num_key_value_heads": 4}, r"k_proj\.weight has 32 rows.* 64 \(key-value"),
    "head": ("llama", {"head_dim": 32}, r"self_attn\.k_proj\.weight has 32 rows.* 64"),
    "uneven": ("llama", {"num_key_value_heads": 3}, "4 attention heads, which 3 key-value heads"),
    "none": ("llama", {"num_attention_heads": 0}, "tells of no heads"),
    "negative": ("llama", {"hidden_size": -64}, "hidden_size -64"),
    "fewer layers": ("llama", {"num_hidden_layers": 1}, "tells of 1 layers, .* hold 2"),
    "fused": ("phi3", {"num_key_value_heads": 4}, r"qkv_proj\.weight has 128 rows.* 192 \(\(att"),
    "gated": (
        "phi3",
        {"intermediate_size": 128},
        r"mlp\.\w+\.weight has (320|160) .*(256|128)",
    ),
    "other way round": ("gpt2", {"n_inner": 128}, r"mlp\.c_fc\.weight has 256 columns.* 128"),
    "decoder": ("opt", {"ffn_dim": 96}, r"fc1\.weight has 160 rows.* 96"),
    "expert": ("qwen3_moe", {"hidden_size": 32}, r"has 64 columns.* 32 \(hidden"),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_a_config_of_another_model_is_told_from_the_headers(tmp_path: Path, case: str) -> None:
    family, changes, words = MISMATCHES[case]
    folder = tiny_model(tmp_path, family, tokenizer=False)
    infer_spec(folder)
    with pytest.raises(ModelError, match=words):
        infer_spec(configured(folder, **changes))


def test_a_transposed_matrix_is_told(tmp_path: Path) -> None:
    def turned(tensors: Tensors) -> Tensors:
        name = "model.layers.1.mlp.up_proj.weight"
        return {**tensors, name: tensors[name].T.contiguous()}

    folder = rewrite(tiny_model(tmp_path), turned)
    with pytest.raises(ModelError, match=r"1\.mlp\.up_proj\.weight has 64 rows, .*160 \(MLP width"):
        infer_spec(folder)


@pytest.mark.parametrize("family", [
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "gpt2", "opt", "phi",
    "phi3", "gemma", "gemma2", "gemma3_text", "llava",
])  # fmt: skip
def test_what_transformers_writes_contradicts_nothing(tmp_path: Path, family: str) -> None:
    infer_spec(tiny_model(tmp_path, family, tokenizer=False))


def test_an_embedding_of_another_width_is_opts_own(tmp_path: Path) -> None:
    infer_spec(tiny_model(tmp_path, "opt", tokenizer=False, word_embed_proj_dim=32))
