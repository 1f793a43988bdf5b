"""Specs of published models, from the shapes that their authors tell; no weights."""

from __future__ import annotations

from functools import cache
from typing import Any

from paredown.spec.infer import spec_from
from paredown.spec.model import ModelSpec, TensorInfo, tensor_info


def _matrix(name: str, rows: int, width: int) -> TensorInfo:
    return tensor_info(f"{name}.weight", "BF16", (rows, width))


def _dense(config: dict[str, Any], *, norms: int = 2) -> list[TensorInfo]:
    """The tensors of a model with gated MLPs and separate projections."""
    h, f = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    found = [_matrix("model.embed_tokens", config["vocab_size"], h)]
    if not config["tie_word_embeddings"]:
        found.append(_matrix("lm_head", config["vocab_size"], h))
    found.append(tensor_info("model.norm.weight", "BF16", (h,)))
    for i in range(config["num_hidden_layers"]):
        block = f"model.layers.{i}"
        found += [
            _matrix(f"{block}.self_attn.q_proj", q, h), _matrix(f"{block}.self_attn.k_proj", kv, h),
            _matrix(f"{block}.self_attn.v_proj", kv, h), _matrix(f"{block}.self_attn.o_proj", h, q),
            _matrix(f"{block}.mlp.gate_proj", f, h), _matrix(f"{block}.mlp.up_proj", f, h),
            _matrix(f"{block}.mlp.down_proj", h, f),
        ]  # fmt: skip
        for n in range(norms):
            found.append(tensor_info(f"{block}.norm_{n}_layernorm.weight", "BF16", (h,)))
    return found


def _config(kind: str, layers: int, hidden: int, mlp: int, heads: int, kv: int, head_dim: int,
            vocabulary: int, *, tied: bool = False, context: int = 131_072,
            **more: Any) -> dict[str, Any]:  # fmt: skip
    return {
        "model_type": kind, "architectures": ["ForCausalLM"], "num_hidden_layers": layers,
        "hidden_size": hidden, "intermediate_size": mlp, "num_attention_heads": heads,
        "num_key_value_heads": kv, "head_dim": head_dim, "vocab_size": vocabulary,
        "max_position_embeddings": context, "tie_word_embeddings": tied, **more,
    }  # fmt: skip


@cache
def llama_3_8b() -> ModelSpec:
    config = _config("llama", 32, 4096, 14336, 32, 8, 128, 128_256, context=8192)
    return spec_from(config, _dense(config), name="Llama-3-8B")


@cache
def llama_3_70b() -> ModelSpec:
    config = _config("llama", 80, 8192, 28672, 64, 8, 128, 128_256, context=8192)
    return spec_from(config, _dense(config), name="Llama-3-70B")


@cache
def llama_3_1b() -> ModelSpec:
    config = _config("llama", 16, 2048, 8192, 32, 8, 64, 128_256, tied=True)
    return spec_from(config, _dense(config), name="Llama-3.2-1B")


@cache
def qwen_3_06b() -> ModelSpec:
    config = _config("qwen3", 28, 1024, 3072, 16, 8, 128, 151_936, tied=True, context=40_960)
    return spec_from(config, _dense(config), name="Qwen3-0.6B")


@cache
def gemma_3_27b() -> ModelSpec:
    config = _config("gemma3_text", 62, 5376, 21504, 32, 16, 128, 262_208, tied=True,
                     sliding_window=1024, sliding_window_pattern=6)  # fmt: skip
    return spec_from(config, _dense(config, norms=4), name="Gemma-3-27B")


@cache
def deepseek_v3() -> ModelSpec:
    """Its linears, experts fused to one tensor of 256 per block: 90 000 names tell no more."""
    h, heads, nope, rope, v, rank, q_rank, width = 7168, 128, 128, 64, 128, 512, 1536, 2048
    config = {
        **_config("deepseek_v3", 61, h, 18432, heads, heads, 192, 129_280, context=163_840),
        "kv_lora_rank": rank, "q_lora_rank": q_rank, "qk_rope_head_dim": rope,
        "qk_nope_head_dim": nope, "v_head_dim": v, "n_routed_experts": 256,
        "num_experts_per_tok": 8, "moe_intermediate_size": width,
    }  # fmt: skip
    found = [_matrix("model.embed_tokens", 129_280, h), _matrix("lm_head", 129_280, h)]
    for i in range(61):
        block = f"model.layers.{i}"
        found += [
            _matrix(f"{block}.self_attn.q_a_proj", q_rank, h),
            _matrix(f"{block}.self_attn.q_b_proj", heads * (nope + rope), q_rank),
            _matrix(f"{block}.self_attn.kv_a_proj_with_mqa", rank + rope, h),
            _matrix(f"{block}.self_attn.kv_b_proj", heads * (nope + v), rank),
            _matrix(f"{block}.self_attn.o_proj", h, heads * v),
        ]
        dense = 18432 if i < 3 else width  # a dense MLP, or the shared expert
        name = "mlp" if i < 3 else "mlp.shared_experts"
        found += [_matrix(f"{block}.{name}.{part}_proj", dense, h) for part in ("gate", "up")]
        found.append(_matrix(f"{block}.{name}.down_proj", h, dense))
        if i >= 3:
            for part, shape in (("gate_up_proj", (256, 2 * width, h)),
                                ("down_proj", (256, h, width))):  # fmt: skip
                found.append(tensor_info(f"{block}.mlp.experts.{part}", "BF16", shape))
    return spec_from(config, found, name="DeepSeek-V3")
