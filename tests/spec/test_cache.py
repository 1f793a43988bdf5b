"""What models keep of the tokens they read: published sizes, and the caches of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paredown.spec.cache import Caches, find_caches
from paredown.spec.heads import Groups, with_groups
from paredown.spec.infer import infer_spec, spec_from
from paredown.spec.model import ModelSpec
from paredown.spec.sizes import kv_bytes_per_token
from paredown.testing.tiny import tiny_model

GIB = 1 << 30


def told(model_type: str, **config: Any) -> ModelSpec:
    """A spec of a config alone, as its authors publish it."""
    return spec_from({"model_type": model_type, **config}, [], name=model_type)


LLAMA_3_8B = told("llama", num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
                  head_dim=128, hidden_size=4096)  # fmt: skip
GEMMA_3_27B = told(
    "gemma3_text", num_hidden_layers=62, num_attention_heads=32, num_key_value_heads=16,
    head_dim=128, hidden_size=5376, sliding_window=1024, sliding_window_pattern=6,
)  # fmt: skip
DEEPSEEK_V3 = told(
    "deepseek_v3", num_hidden_layers=61, num_attention_heads=128, num_key_value_heads=128,
    hidden_size=7168, kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128,
)  # fmt: skip
QWEN_3_06B = told("qwen3", num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
                  head_dim=128, hidden_size=1024)  # fmt: skip


def test_llama_3_8b_keeps_128_kib_a_token() -> None:
    assert kv_bytes_per_token(LLAMA_3_8B) == 128 * 1024
    assert find_caches(LLAMA_3_8B).nbytes(8192) == GIB


def test_deepseek_v3_keeps_70_kb_a_token() -> None:
    """DeepSeek-V3's report (arXiv:2412.19437) counts 70.272 KB."""
    assert kv_bytes_per_token(DEEPSEEK_V3) == 70_272


def test_latents_are_replicated_where_heads_are_split() -> None:
    assert find_caches(DEEPSEEK_V3).nbytes(100, devices=8) == 100 * 70_272
    assert find_caches(LLAMA_3_8B).nbytes(100, devices=8) == 100 * 128 * 1024 / 8
    # Eight heads on sixteen devices: each head lies on two of them.
    assert find_caches(LLAMA_3_8B).nbytes(100, devices=16) == 100 * 128 * 1024 / 8


def test_gemma_3_27b_keeps_a_window_in_five_layers_of_six() -> None:
    """62 layers, every sixth full: 10 full, 52 of 1024 tokens."""
    caches, context = find_caches(GEMMA_3_27B), 32768
    layer = 2 * 16 * 128 * 2
    assert caches.nbytes(context) == layer * (10 * context + 52 * 1024)
    assert caches.nbytes(context, windows=False) == layer * 62 * context
    assert caches.nbytes(512) == layer * 62 * 512  # shorter than the window


def test_qwen_3_has_wider_heads_than_its_width_over_their_number() -> None:
    """1024 / 16 would be 64: half of what its config says (an estimator's error of -50 %)."""
    assert kv_bytes_per_token(QWEN_3_06B) == 28 * 2 * 8 * 128 * 2


def test_what_is_not_understood_is_unknown_with_a_reason() -> None:
    rwkv = told("rwkv", num_hidden_layers=2, hidden_size=64)
    assert kv_bytes_per_token(rwkv) is None
    assert find_caches(rwkv).unknown == "what the layers of rwkv keep is not understood"
    strange = told("llama", num_hidden_layers=1, layer_types=["hash_attention"])
    assert "'hash_attention'" in find_caches(strange).unknown
    both_ways = told("t5", num_hidden_layers=2, is_encoder_decoder=True)
    assert "encoder-decoder" in find_caches(both_ways).unknown


def test_pruned_heads_leave_the_cache_smaller(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path / "m", tokenizer=False))
    halved = with_groups(spec, Groups(count=2, queries=2, head_dim=16), 1)
    whole = kv_bytes_per_token(spec)
    assert whole == 2 * 2 * 2 * 16 * 2
    assert kv_bytes_per_token(halved) == whole // 2


SMALL: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {},
    "opt": {},
    "phi3": {},
    "mixtral": {},
    "gemma3_text": {"sliding_window": 8},
    "cohere2": {"sliding_window": 8},
    "gpt_oss": {"sliding_window": 8, "head_dim": 16, "num_local_experts": 2,
                "num_experts_per_tok": 1},
    "qwen3_next": {
        "head_dim": 16, "num_experts": 2, "num_experts_per_tok": 1,
        "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    },
    "mamba": {"state_size": 4, "expand": 2},
    "mamba2": {"state_size": 4, "expand": 2, "num_heads": 8, "head_dim": 16, "n_groups": 1},
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 16,
              "mamba_d_state": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "deepseek_v3": {
        "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
        "v_head_dim": 16, "n_routed_experts": 4, "num_key_value_heads": 4, "n_group": 1,
        "topk_group": 1, "first_k_dense_replace": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", SMALL)
def test_transformers_keeps_what_is_predicted(family: str, tmp_path: Path) -> None:
    """An implementation of its own: the tensors of its cache behind a prompt of 20 tokens."""
    from transformers import AutoModelForCausalLM

    tokens = 20
    folder = tiny_model(tmp_path / "m", family, tokenizer=False, **SMALL[family])
    caches = find_caches(infer_spec(folder))
    assert not caches.unknown
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    with torch.no_grad():
        output = model(torch.ones(1, tokens, dtype=torch.int64), use_cache=True)
    kept = getattr(output, "past_key_values", None) or output.cache_params
    assert _bytes(kept, tokens) == pytest.approx(caches.nbytes(tokens))


def _bytes(kept: Any, tokens: int) -> int:
    names = ("keys", "values", "conv_states", "recurrent_states", "ssm_states")
    tensors = [getattr(layer, name, None) for layer in kept.layers for name in names]
    flat = [t for found in tensors for t in _flat(found)]
    # transformers cuts a window of n to n - 1 tokens: the next one comes on top of them.
    return sum(t.nbytes * 8 // 7 if t.ndim == 4 and t.shape[2] == 7 else t.nbytes for t in flat)


def _flat(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    if isinstance(found, dict):
        return [t for value in found.values() for t in _flat(value)]
    return [t for value in found or () for t in _flat(value)]


def test_nothing_known_is_not_nothing_kept() -> None:
    assert find_caches(told("llama")).unknown
    assert Caches().nbytes(100) == 0
