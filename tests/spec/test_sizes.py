"""Sizes worked out by hand on a model small enough to do so."""

from __future__ import annotations

from typing import Any

import pytest

from paredown.errors import ConfigError
from paredown.spec.infer import spec_from
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.sizes import (
    bytes_at,
    kv_bytes_per_token,
    memory_to_quantize,
    memory_to_serve,
)

HIDDEN, WIDTH, KV, VOCABULARY, LAYERS = 64, 96, 32, 10, 2
CONFIG: dict[str, Any] = {"model_type": "llama", "num_attention_heads": 4}
BLOCK = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (WIDTH, HIDDEN),
    "mlp.up_proj": (WIDTH, HIDDEN),
    "mlp.down_proj": (HIDDEN, WIDTH),
}
LINEAR = 64 * 64 + 32 * 64 + 32 * 64 + 64 * 64 + 3 * 96 * 64  # 30720 weights a block
NORM = HIDDEN
REST = 2 * VOCABULARY * HIDDEN + LAYERS * NORM  # embedding, head, one norm a block


def tensor(name: str, *shape: int) -> TensorInfo:
    return TensorInfo(name=name, dtype="BF16", shape=shape)


@pytest.fixture
def spec() -> ModelSpec:
    stored = [tensor("model.embed_tokens.weight", VOCABULARY, HIDDEN)]
    stored.append(tensor("lm_head.weight", VOCABULARY, HIDDEN))
    for i in range(LAYERS):
        stored.append(tensor(f"model.layers.{i}.input_layernorm.weight", NORM))
        for name, (rows, columns) in BLOCK.items():
            stored.append(tensor(f"model.layers.{i}.{name}.weight", rows, columns))
    return spec_from(CONFIG, stored, name="small")


def test_sixteen_and_thirty_two_bits(spec: ModelSpec) -> None:
    assert spec.parameters == LAYERS * LINEAR + REST
    assert bytes_at(spec, "fp32") == 4 * spec.parameters
    assert bytes_at(spec, "fp16") == 2 * spec.parameters == spec.weight_bytes


def test_codes_scales_and_the_rest(spec: ModelSpec) -> None:
    # groups of 32: two a row of 64, three a row of 96; scales of 2 bytes.
    scales = 2 * (2 * (64 + 32 + 32 + 64 + 96 + 96) + 3 * 64)
    assert bytes_at(spec, "int8", 32) == LAYERS * (LINEAR + scales) + 2 * REST
    assert bytes_at(spec, "int4", 32) == LAYERS * (LINEAR // 2 + scales) + 2 * REST


def test_a_group_left_over_has_its_own_scale(spec: ModelSpec) -> None:
    scales = 2 * (384 + 2 * 64)  # groups of 64: down_proj's rows of 96 have two
    assert bytes_at(spec, "int4", 64) == LAYERS * (LINEAR // 2 + scales) + 2 * REST


def test_one_scale_per_row(spec: ModelSpec) -> None:
    scales = 2 * (384 + 64)
    assert bytes_at(spec, "int8", -1) == LAYERS * (LINEAR + scales) + 2 * REST


def test_transposed_matrices_have_their_groups_along_the_rows() -> None:
    stored = [tensor("h.0.mlp.c_fc.weight", 64, 256), tensor("wte.weight", 10, 64)]
    spec = spec_from({"model_type": "gpt2", "n_layer": 1}, stored, name="gpt2")
    assert bytes_at(spec, "int8", 64) == 64 * 256 + 256 * 2 + 2 * 10 * 64


def test_quantized_models_have_no_other_integer_size(spec: ModelSpec) -> None:
    packed = spec.model_copy(update={"quantization": "gptq"})
    with pytest.raises(ConfigError, match=r"quantized already .gptq.; start from the unquantized"):
        bytes_at(packed, "int4")


def test_cache(spec: ModelSpec) -> None:
    # 2 heads of 16 for keys and values each, 2 layers, 2 bytes.
    assert kv_bytes_per_token(spec) == 2 * 2 * 2 * 16 * 2
    assert kv_bytes_per_token(spec, 1) == 128


def test_serving_is_weights_and_cache(spec: ModelSpec) -> None:
    served = memory_to_serve(spec, "int4", 100, 3, group_size=32)
    assert served == bytes_at(spec, "int4", 32) + 3 * 100 * 256


def test_cache_of_llama_3_8b_at_full_context() -> None:
    facts = {"num_hidden_layers": 32, "num_key_value_heads": 8, "head_dim": 128}
    spec = spec_from({"model_type": "llama", **facts}, [], name="llama")
    assert kv_bytes_per_token(spec) == 131072  # 1 GiB for 8192 tokens


def test_unknown_heads_make_the_cache_unknown(spec: ModelSpec) -> None:
    blind = spec.model_copy(update={"kv_heads": None})
    assert kv_bytes_per_token(blind) is None
    assert memory_to_serve(blind, "fp16", 10) is None


def test_quantizing_holds_one_block_its_hessians_and_the_activations(spec: ModelSpec) -> None:
    # inputs: of q, k and v; of o; of gate and up; of down
    hessians = 4 * (64**2 + 64**2 + 64**2 + 96**2)
    block = 4 * (LINEAR + NORM)
    activations = 2 * 2 * 1000 * HIDDEN
    embedding = 2 * VOCABULARY * HIDDEN
    assert memory_to_quantize(spec, 1000) == block + hessians + activations + embedding


def test_experts_of_a_block_each_have_their_hessians() -> None:
    experts = [
        tensor(f"model.layers.0.block_sparse_moe.experts.{e}.{name}.weight", *shape)
        for e in range(4)
        for name, shape in (("w1", (96, 64)), ("w2", (64, 96)), ("w3", (96, 64)))
    ]
    config = {"model_type": "mixtral", "hidden_size": 64, "vocab_size": 10}
    spec = spec_from(config, experts, name="mixtral")
    hessians = 4 * 4 * (64**2 + 96**2)
    assert memory_to_quantize(spec, 0) == 4 * 4 * 3 * 96 * 64 + hessians + 2 * 10 * 64


def test_a_model_without_blocks_has_no_such_estimate() -> None:
    spec = spec_from({"model_type": "new"}, [tensor("w", 3, 3)], name="new")
    assert memory_to_quantize(spec, 10) is None
