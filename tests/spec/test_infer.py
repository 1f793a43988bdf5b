"""Specs of well-known models from their published configs and shapes, and of odd ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

os.environ["HF_HUB_OFFLINE"] = "1"

from paredown.errors import ModelError
from paredown.spec import infer
from paredown.spec.infer import infer_remote, infer_spec, spec_from
from paredown.spec.model import ModelSpec, TensorInfo


def tensor(name: str, *shape: int, dtype: str = "BF16") -> TensorInfo:
    return TensorInfo(name=name, dtype=dtype, shape=shape)


def attention(prefix: str, hidden: int, kv: int, *, bias: bool = False) -> Iterator[TensorInfo]:
    for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
        yield tensor(f"{prefix}.self_attn.{name}_proj.weight", rows, hidden)
        if bias:
            yield tensor(f"{prefix}.self_attn.{name}_proj.bias", rows)
    yield tensor(f"{prefix}.self_attn.o_proj.weight", hidden, hidden)
    yield tensor(f"{prefix}.input_layernorm.weight", hidden)
    yield tensor(f"{prefix}.post_attention_layernorm.weight", hidden)


def ends(hidden: int, vocabulary: int) -> Iterator[TensorInfo]:
    yield tensor("model.embed_tokens.weight", vocabulary, hidden)
    yield tensor("model.norm.weight", hidden)
    yield tensor("lm_head.weight", vocabulary, hidden)


def dense(
    layers: int, hidden: int, width: int, kv: int, vocabulary: int, *, bias: bool = False
) -> list[TensorInfo]:
    """Tensors of a model with Llama's layout."""
    found = [*ends(hidden, vocabulary)]
    for i in range(layers):
        prefix = f"model.layers.{i}"
        found += attention(prefix, hidden, kv, bias=bias)
        found.append(tensor(f"{prefix}.mlp.gate_proj.weight", width, hidden))
        found.append(tensor(f"{prefix}.mlp.up_proj.weight", width, hidden))
        found.append(tensor(f"{prefix}.mlp.down_proj.weight", hidden, width))
    return found


# Hub configs, shortened to what is read.
LLAMA3_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
QWEN25_7B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vocab_size": 152064,
}
MIXTRAL_8X7B: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mixtral",
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "vocab_size": 32000,
}


def test_llama_3_8b() -> None:
    spec = spec_from(LLAMA3_8B, dense(32, 4096, 14336, 1024, 128256), name="llama-3-8b")
    assert spec.parameters == spec.active_parameters == 8_030_261_248
    assert (spec.family, spec.architecture, spec.dtype) == ("llama", "LlamaForCausalLM", "BF16")
    assert (spec.layers, spec.heads, spec.kv_heads, spec.head_dim) == (32, 32, 8, 128)
    assert (spec.vocabulary, spec.context, spec.tied_embeddings) == (128256, 8192, False)
    assert spec.weight_bytes == 16_060_522_496
    assert (spec.experts, spec.vision, spec.quantization, spec.path) == (None,) * 4
    assert spec.unknown == ()


def test_qwen_25_7b() -> None:
    spec = spec_from(QWEN25_7B, dense(28, 3584, 18944, 512, 152064, bias=True), name="qwen")
    assert spec.parameters == 7_615_616_512
    assert (spec.layers, spec.heads, spec.kv_heads, spec.head_dim) == (28, 28, 4, 128)
    assert (spec.context, spec.intermediate_size) == (32768, 18944)


def mixtral() -> list[TensorInfo]:
    found = [*ends(4096, 32000)]
    for i in range(32):
        prefix = f"model.layers.{i}"
        found += attention(prefix, 4096, 1024)
        found.append(tensor(f"{prefix}.block_sparse_moe.gate.weight", 8, 4096))
        for e in range(8):
            expert = f"{prefix}.block_sparse_moe.experts.{e}"
            found.append(tensor(f"{expert}.w1.weight", 14336, 4096))
            found.append(tensor(f"{expert}.w2.weight", 4096, 14336))
            found.append(tensor(f"{expert}.w3.weight", 14336, 4096))
    return found


def test_mixtral_8x7b() -> None:
    spec = spec_from(MIXTRAL_8X7B, mixtral(), name="mixtral")
    assert spec.parameters == 46_702_792_704
    assert spec.active_parameters == 12_879_925_248
    assert (spec.experts, spec.experts_per_token, spec.intermediate_size) == (8, 2, 14336)


def gpt2() -> list[TensorInfo]:
    """As on the hub: no prefix, causal masks stored."""
    found = [tensor("wte.weight", 50257, 768, dtype="F32")]
    found += [tensor("wpe.weight", 1024, 768, dtype="F32")]
    found += [tensor(f"ln_f.{leaf}", 768, dtype="F32") for leaf in ("weight", "bias")]
    matrices = {"attn.c_attn": 2304, "attn.c_proj": 768, "mlp.c_fc": 3072}
    for i in range(12):
        for name, width in matrices.items():
            found.append(tensor(f"h.{i}.{name}.weight", 768, width, dtype="F32"))
            found.append(tensor(f"h.{i}.{name}.bias", width, dtype="F32"))
        found.append(tensor(f"h.{i}.mlp.c_proj.weight", 3072, 768, dtype="F32"))
        for name in ("mlp.c_proj.bias", "ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"):
            found.append(tensor(f"h.{i}.{name}", 768, dtype="F32"))
        found.append(tensor(f"h.{i}.attn.bias", 1, 1, 1024, 1024, dtype="F32"))
        found.append(tensor(f"h.{i}.attn.masked_bias", dtype="F32"))
    return found


GPT2: dict[str, Any] = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "vocab_size": 50257,
}


def test_gpt2_masks_are_no_parameters() -> None:
    spec = spec_from(GPT2, gpt2(), name="gpt2")
    assert spec.parameters == 124_439_808
    assert (spec.intermediate_size, spec.kv_heads, spec.head_dim) == (3072, 12, 64)
    assert spec.tied_embeddings


def test_old_llama_buffers_are_no_parameters() -> None:
    stored = dense(32, 4096, 14336, 1024, 128256)
    stored += [tensor(f"model.layers.{i}.self_attn.rotary_emb.inv_freq", 64) for i in range(32)]
    assert spec_from(LLAMA3_8B, stored, name="m").parameters == 8_030_261_248


def test_a_stored_copy_of_a_tied_head_counts_once() -> None:
    tied = {**QWEN25_7B, "tie_word_embeddings": True}
    stored = dense(28, 3584, 18944, 512, 152064, bias=True)
    spec = spec_from(tied, stored, name="qwen")
    assert spec.parameters == 7_615_616_512 - 152064 * 3584
    assert spec.weight_bytes == 2 * 7_615_616_512


# --- Quantized checkpoints ------------------------------------------------------------------------

LINEARS = {"self_attn.q_proj": (4096, 4096), "mlp.down_proj": (4096, 14336)}


def packed(scheme: str) -> list[TensorInfo]:
    """One block with two quantized linears, as each tool stores them; group size 128."""
    found = [tensor("model.embed_tokens.weight", 1000, 4096, dtype="F16")]
    for module, (rows, width) in LINEARS.items():
        name = f"model.layers.0.{module}"
        if scheme == "bnb8":
            found.append(tensor(f"{name}.weight", rows, width, dtype="I8"))
            found.append(tensor(f"{name}.SCB", rows, dtype="F32"))
            found.append(tensor(f"{name}.weight_format", dtype="U8"))
        elif scheme == "bnb4":
            found.append(tensor(f"{name}.weight", rows * width // 2, 1, dtype="U8"))
            found.append(tensor(f"{name}.weight.absmax", rows * width // 64, dtype="U8"))
            found.append(tensor(f"{name}.weight.quant_map", 16, dtype="F32"))
            found.append(tensor(f"{name}.weight.quant_state.bitsandbytes__nf4", 90, dtype="U8"))
        elif scheme == "gptq":
            found.append(tensor(f"{name}.qweight", width * 4 // 32, rows, dtype="I32"))
            found.append(tensor(f"{name}.qzeros", width // 128, rows * 4 // 32, dtype="I32"))
            found.append(tensor(f"{name}.scales", width // 128, rows, dtype="F16"))
            found.append(tensor(f"{name}.g_idx", width, dtype="I32"))
        elif scheme == "awq":
            found.append(tensor(f"{name}.qweight", width, rows * 4 // 32, dtype="I32"))
            found.append(tensor(f"{name}.qzeros", width // 128, rows * 4 // 32, dtype="I32"))
            found.append(tensor(f"{name}.scales", width // 128, rows, dtype="F16"))
        else:
            bits = int(scheme[-1])
            found.append(tensor(f"{name}.weight_packed", rows, width * bits // 32, dtype="I32"))
            found.append(tensor(f"{name}.weight_scale", rows, width // 128, dtype="BF16"))
            found.append(tensor(f"{name}.weight_shape", 2, dtype="I64"))
    return found


def groups(*bits: int, group_size: int | None = 128) -> dict[str, Any]:
    weights = [{"num_bits": b, "group_size": group_size} for b in bits]
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {f"group_{i}": {"weights": w} for i, w in enumerate(weights)},
    }


@pytest.mark.parametrize(
    ("scheme", "settings"),
    [
        ("bnb8", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
        ("bnb4", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("gptq", {"quant_method": "gptq", "bits": 4, "group_size": 128}),
        ("awq", {"quant_method": "awq", "bits": 4, "group_size": 128}),
        ("ct4", groups(4)),
        ("ct3", groups(3)),
        ("ct4", groups(4, group_size=None)),
        ("ct4", groups(4, 8)),
    ],
)
def test_packed_weights_count_as_what_they_stand_for(scheme: str, settings: dict[str, Any]) -> None:
    config = {"model_type": "llama", "num_hidden_layers": 1, "quantization_config": settings}
    spec = spec_from(config, packed(scheme), name="packed")
    assert spec.parameters == 1000 * 4096 + sum(r * w for r, w in LINEARS.values())
    assert spec.quantization == settings["quant_method"]
    assert "parameters" not in spec.unknown


def test_packed_weights_of_unknown_width_are_said_to_be_unknown() -> None:
    settings = groups(4, 8, group_size=None)
    config = {"model_type": "llama", "quantization_config": settings}
    assert "parameters" in spec_from(config, packed("ct4"), name="packed").unknown


def test_fp8_weights_have_their_plain_shape() -> None:
    stored = [
        tensor("model.layers.0.mlp.down_proj.weight", 256, 512, dtype="F8_E4M3"),
        tensor("model.layers.0.mlp.down_proj.weight_scale_inv", 2, 4, dtype="F32"),
    ]
    config = {"model_type": "qwen3", "quantization_config": {"quant_method": "fp8"}}
    spec = spec_from(config, stored, name="fp8")
    assert (spec.parameters, spec.dtype, spec.quantization) == (256 * 512, "F8_E4M3", "fp8")


# --- Odd models -----------------------------------------------------------------------------------


def test_unknown_family_gets_what_config_and_shapes_say() -> None:
    config = {
        "architectures": ["NewForCausalLM"],
        "model_type": "new",
        "d_model": 64,
        "n_layers": 3,
        "vocab_size": 100,
    }
    stored = [
        tensor("backbone.tok.weight", 100, 64),
        *(tensor(f"backbone.cells.{i}.mix", 64, 64) for i in range(3)),
    ]
    spec = spec_from(config, stored, name="new")
    assert (spec.family, spec.model_type) == ("new", "new")
    assert (spec.parameters, spec.hidden_size, spec.layers) == (18688, 64, 3)
    assert spec.unknown == ("intermediate_size", "heads", "kv_heads", "head_dim", "context")


def test_unknown_family_is_not_given_anothers_defaults() -> None:
    config = {**LLAMA3_8B, "model_type": "latent", "architectures": ["LatentForCausalLM"]}
    del config["num_key_value_heads"], config["tie_word_embeddings"]
    stored = [t for t in dense(2, 64, 128, 16, 100) if "_proj" not in t.name]
    spec = spec_from(config, stored, name="latent")
    assert spec.kv_heads is spec.head_dim is None
    assert spec.unknown == ("kv_heads", "head_dim")
    spec = spec_from({**config, "head_dim": 16}, stored, name="latent")
    assert spec.unknown == ("kv_heads",)


@pytest.mark.parametrize(("has_head", "tied"), [(True, False), (False, True)])
def test_unknown_family_is_tied_when_it_stores_no_head(has_head: bool, tied: bool) -> None:
    config = {"model_type": "new", "architectures": ["NewForCausalLM"]}
    stored = [t for t in ends(8, 20) if has_head or t.name != "lm_head.weight"]
    assert spec_from(config, stored, name="new").tied_embeddings is tied


def test_experts_without_a_number_per_token_are_said_to_be_unknown() -> None:
    stored = [tensor(f"layers.0.ffn.experts.{e}.up.weight", 8, 4) for e in range(3)]
    spec = spec_from({"model_type": "new"}, stored, name="new")
    assert (spec.experts, spec.experts_per_token) == (3, None)
    assert {"experts_per_token", "active_parameters"} <= set(spec.unknown)


def test_shared_experts_are_always_active() -> None:
    config = {"model_type": "new", "n_routed_experts": 4, "num_experts_per_tok": 1}
    stored = [tensor(f"layers.0.mlp.experts.{e}.up.weight", 8, 4) for e in range(4)]
    stored.append(tensor("layers.0.mlp.shared_experts.up.weight", 8, 4))
    spec = spec_from(config, stored, name="new")
    assert (spec.parameters, spec.active_parameters) == (160, 64)


def test_missing_blocks_mean_a_missing_file() -> None:
    half = [t for t in dense(32, 4096, 14336, 1024, 128256) if ".layers.2" not in t.name]
    with pytest.raises(ModelError, match=r"32 layers, the weights files hold 21; .* is missing"):
        spec_from(LLAMA3_8B, half, name="half")


def test_config_of_something_else() -> None:
    with pytest.raises(ModelError, match="no model_type, so this is no language model"):
        spec_from({"_class_name": "UNet2DConditionModel"}, [], name="picture")


def test_local_folder_gives_name_and_path(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "new"}')
    save_file({"w": np.zeros((2, 3), dtype=np.float16)}, folder / "model.safetensors")
    spec = infer_spec(folder)
    assert (spec.name, spec.path, spec.parameters, spec.dtype) == ("tiny", folder, 6, "F16")
    assert infer_spec(folder, name="my").name == "my"
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec


def test_remote_model_has_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = tuple(dense(32, 4096, 14336, 1024, 128256))
    monkeypatch.setattr(infer, "remote_headers", lambda repo_id: (LLAMA3_8B, stored))
    spec = infer_remote("meta-llama/Meta-Llama-3-8B")
    assert (spec.name, spec.path) == ("meta-llama/Meta-Llama-3-8B", None)
    assert spec.parameters == 8_030_261_248


def test_a_changed_spec_looks_up_its_own_tensors() -> None:
    spec = spec_from({"model_type": "new"}, [tensor("w", 2, 3)], name="new")
    assert spec.by_name["w"].numel == 6
    assert spec.with_tensors([tensor("w", 5)]).by_name["w"].numel == 5


def test_planning_needs_no_torch() -> None:
    code = (
        "import sys, paredown.spec.infer, paredown.spec.sizes, paredown.hardware.detect, "
        "paredown.methods.recommend, paredown.cli.spec; "
        "paredown.hardware.detect.detect(); "
        "print(sorted({'torch', 'transformers', 'numpy'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(infer.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"
