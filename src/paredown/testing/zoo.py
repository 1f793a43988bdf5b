"""Configs of tiny models, by family: what transformers needs to build one of each.

Every width is a multiple of 64, because bitsandbytes' kernels on some processors take no others;
two blocks, or as many as it takes to have one of each kind that a family mixes.
"""

from __future__ import annotations

from typing import Any

from paredown.text.ascii import CHARACTERS

VOCABULARY = CHARACTERS
WIDTH = 64
MLP_WIDTH = 160
LAYERS = 2

_TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
    "max_position_embeddings": 256, **_TOKENS,
}  # fmt: skip
LLAMA_LIKE: dict[str, Any] = {
    **_BASE, "intermediate_size": MLP_WIDTH, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
_GEMMA = {**LLAMA_LIKE, "head_dim": WIDTH // 4}
_SLIDING = ["sliding_attention", "full_attention"]
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 256,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
_NO_GROUPS = {**LLAMA_LIKE, "num_key_value_heads": 4}
_MOE = {"num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 96}
_LOCAL = {"num_experts_per_tok": 2, "num_local_experts": 4}
_LATENT = {
    "q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}  # fmt: skip
_ROUTED: dict[str, Any] = {
    **_NO_GROUPS, "num_experts_per_tok": 2, "n_routed_experts": 4, "moe_intermediate_size": 96,
    "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    "num_nextn_predict_layers": 0,
}  # fmt: skip
_MAMBA = {
    "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16,
    "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 16,
}  # fmt: skip
_LINEAR_ATTENTION = {
    "head_dim": 16, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "gptj": {**_GPT2, "rotary_dim": 8},
    "codegen": {**_GPT2, "n_ctx": 256, "rotary_dim": 8},
    "gpt_neo": {
        **_BASE, "num_layers": LAYERS, "num_heads": 4, "window_size": 8,
        "attention_types": [[["global", "local"], 1]],
    },
    "opt": {
        **_BASE, "ffn_dim": MLP_WIDTH, "num_attention_heads": 4, "word_embed_proj_dim": WIDTH,
    },
    "gpt_neox": _NO_GROUPS,
    "falcon": {**_BASE, "num_attention_heads": 4, "ffn_hidden_size": MLP_WIDTH},
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_layer": LAYERS, "n_head": 4},
    "mpt": {
        "vocab_size": VOCABULARY, "d_model": WIDTH, "n_layers": LAYERS, "n_heads": 4,
        "max_seq_len": 256,
    },
    "rwkv": {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
        "attention_hidden_size": WIDTH, "intermediate_size": MLP_WIDTH, "context_length": 256,
    },
    "xglm": {
        "vocab_size": VOCABULARY, "d_model": WIDTH, "ffn_dim": MLP_WIDTH, "num_layers": LAYERS,
        "attention_heads": 4, "max_position_embeddings": 256, **_TOKENS,
    },
    "persimmon": _NO_GROUPS,
    "biogpt": _NO_GROUPS,
    "qwen3": _GEMMA,
    "gemma": _GEMMA,
    "gemma2": _GEMMA,
    "gemma3_text": {**_GEMMA, "layer_types": _SLIDING},
    "gemma3n_text": {
        **_GEMMA, "num_hidden_layers": 4, "intermediate_size": [MLP_WIDTH] * 4,
        "layer_types": _SLIDING * 2, "hidden_size_per_layer_input": 32, "laurel_rank": 32,
        "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    },
    "gemma4_text": {
        **_GEMMA, "layer_types": _SLIDING, "hidden_size_per_layer_input": 32,
        "vocab_size_per_layer_input": VOCABULARY, "global_head_dim": 32,
    },
    "minicpm3": {**_NO_GROUPS, **_LATENT},
    "glm": {**LLAMA_LIKE, "head_dim": WIDTH // 4},
    "glm4": {**LLAMA_LIKE, "head_dim": WIDTH // 4},
    "helium": {**LLAMA_LIKE, "head_dim": WIDTH // 4},
    "exaone4": {**LLAMA_LIKE, "layer_types": _SLIDING, "sliding_window": 16},
    "cohere2": {**LLAMA_LIKE, "layer_types": _SLIDING, "sliding_window": 16},
    "olmo3": {**LLAMA_LIKE, "layer_types": _SLIDING, "sliding_window": 16},
    "ministral": {**LLAMA_LIKE, "head_dim": WIDTH // 4, "layer_types": _SLIDING},
    "hunyuan_v1_dense": {**LLAMA_LIKE, "head_dim": WIDTH // 4},
    "seed_oss": {**LLAMA_LIKE, "head_dim": WIDTH // 4},
    "lfm2": {
        **LLAMA_LIKE, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False,
        "block_ff_dim": MLP_WIDTH,
    },
    "mixtral": {**LLAMA_LIKE, **_LOCAL},
    "phimoe": {**LLAMA_LIKE, **_LOCAL},
    "granitemoe": {**LLAMA_LIKE, **_LOCAL},
    "gpt_oss": {
        **LLAMA_LIKE, **_LOCAL, "head_dim": WIDTH // 4, "layer_types": _SLIDING,
        "sliding_window": 16,
    },
    "llama4_text": {
        **LLAMA_LIKE, **_LOCAL, "num_experts_per_tok": 1, "head_dim": WIDTH // 4,
        "intermediate_size_mlp": MLP_WIDTH, "attention_chunk_size": 64, "moe_layers": [1],
        "no_rope_layers": [1, 0],
    },
    "minimax": {
        **LLAMA_LIKE, **_LOCAL, "head_dim": WIDTH // 4, "block_size": 16,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "qwen2_moe": {**LLAMA_LIKE, **_MOE, "shared_expert_intermediate_size": MLP_WIDTH},
    "qwen3_moe": {**LLAMA_LIKE, **_MOE, "head_dim": WIDTH // 4},
    "qwen3_next": {
        **LLAMA_LIKE, **_MOE, **_LINEAR_ATTENTION, "shared_expert_intermediate_size": 96,
    },
    "olmoe": {**LLAMA_LIKE, "num_experts_per_tok": 2, "num_experts": 4},
    "ernie4_5_moe": {
        **LLAMA_LIKE, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 96,
        "moe_num_shared_experts": 1, "moe_layer_start_index": 1, "moe_layer_end_index": 1,
    },
    "glm4_moe": {**_ROUTED, "num_key_value_heads": 2, "head_dim": WIDTH // 4},
    "deepseek_v2": {**_ROUTED, **_LATENT, "topk_method": "greedy"},
    "deepseek_v3": {**_ROUTED, **_LATENT},
    "jamba": {
        **LLAMA_LIKE, "num_experts_per_tok": 2, "num_experts": 4, "expert_layer_period": 2,
        "expert_layer_offset": 1, "attn_layer_period": 2, "attn_layer_offset": 1,
        "use_mamba_kernels": False, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2,
        "mamba_dt_rank": 32,
    },
    # The rank as Mamba itself takes it, which says how much of a block no method reaches; with 14
    # states the rows that follow from both are 32.
    "mamba": {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "state_size": 14, "expand": 2,
        "num_hidden_layers": LAYERS, "conv_kernel": 4, "time_step_rank": WIDTH // 16, **_TOKENS,
    },
    "mamba2": {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "state_size": 16, "expand": 2,
        "num_hidden_layers": LAYERS, "conv_kernel": 4, "num_heads": 8, "head_dim": 16,
        "n_groups": 1, "chunk_size": 16, **_TOKENS,
    },
    "bamba": {**LLAMA_LIKE, **_MAMBA, "attn_layer_indices": [1]},
    "falcon_h1": {**LLAMA_LIKE, **_MAMBA, "mamba_d_ssm": 128},
    "granitemoehybrid": {
        **LLAMA_LIKE, **_LOCAL, **_MAMBA, "shared_intermediate_size": 96,
        "layer_types": ["mamba", "attention"],
    },
    "qwen3_5_text": {**LLAMA_LIKE, **_LINEAR_ATTENTION},
    "recurrent_gemma": {
        **_NO_GROUPS, "intermediate_size": 2 * MLP_WIDTH, "num_hidden_layers": 3,
        "lru_width": WIDTH, "attention_window_size": 64, "head_dim": WIDTH // 4,
    },
}  # fmt: skip
"""`model_type` -> its config's fields; `LLAMA_LIKE` for all others."""

_TOWER = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 32, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
_SIGLIP = {**_TOWER, "model_type": "siglip_vision_model", "num_image_tokens": 4}
_ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
_QWEN_TOWER = {
    "depth": 2, "embed_dim": 32, "hidden_size": WIDTH, "num_heads": 2, "patch_size": 8,
    "spatial_merge_size": 1,
}  # fmt: skip
_IMAGE = VOCABULARY - 1
_UNTIED = {"tie_word_embeddings": False}
_QWEN_TOKENS = {
    "image_token_id": _IMAGE, "video_token_id": _IMAGE - 1, "vision_start_token_id": 1,
    "vision_end_token_id": 2,
}  # fmt: skip

PICTURED: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "llava": ("llama", {}, _TOWER, {"image_token_index": _IMAGE, **_UNTIED}),
    "llava_next": (
        "llama", {}, _TOWER,
        {"image_token_index": _IMAGE, "image_grid_pinpoints": [[16, 16]], **_UNTIED},
    ),
    "llava_onevision": (
        "qwen2", {}, _SIGLIP,
        {"image_token_index": _IMAGE, "video_token_index": _IMAGE - 1,
         "image_grid_pinpoints": [[16, 16]]},
    ),
    "gemma3": (
        "gemma3_text", CONFIGS["gemma3_text"], {**_SIGLIP, "vision_use_head": False},
        {"image_token_index": _IMAGE, "mm_tokens_per_image": 4},
    ),
    "qwen2_vl": (
        "qwen2_vl_text", {"rope_parameters": _ROPE},
        {**_QWEN_TOWER, "model_type": "qwen2_vl", "mlp_ratio": 4}, _QWEN_TOKENS,
    ),
    "qwen2_5_vl": (
        "qwen2_5_vl_text", {"rope_parameters": _ROPE},
        {**_QWEN_TOWER, "model_type": "qwen2_5_vl", "hidden_size": 32, "intermediate_size": 64,
         "out_hidden_size": WIDTH, "fullatt_block_indexes": [1], "window_size": 32},
        _QWEN_TOKENS,
    ),
    "qwen3_vl": (
        "qwen3_vl_text", {"head_dim": WIDTH // 4, "rope_parameters": _ROPE},
        {**_QWEN_TOWER, "model_type": "qwen3_vl", "hidden_size": 32, "intermediate_size": 64,
         "out_hidden_size": WIDTH, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        _QWEN_TOKENS,
    ),
    "idefics3": (
        "llama", {}, {**_SIGLIP, "model_type": "idefics3_vision"},
        {"image_token_id": _IMAGE, "scale_factor": 1},
    ),
    "smolvlm": (
        "llama", {}, {**_SIGLIP, "model_type": "smolvlm_vision"},
        {"image_token_id": _IMAGE, "scale_factor": 1},
    ),
    "paligemma": (
        "gemma", CONFIGS["gemma"], {**_SIGLIP, "vision_use_head": False, "projection_dim": WIDTH},
        {"image_token_index": _IMAGE, "projection_dim": WIDTH},
    ),
    "mistral3": (
        "mistral", {"head_dim": WIDTH // 4},
        {**_TOWER, "model_type": "pixtral", "head_dim": 16},
        {"image_token_index": _IMAGE, "spatial_merge_size": 1},
    ),
    "internvl": (
        "qwen2", {},
        {**_TOWER, "model_type": "internvl_vision", "image_size": [16, 16], "patch_size": [8, 8]},
        {"image_token_id": _IMAGE, "downsample_ratio": 1.0},
    ),
    "mllama": (
        "mllama_text_model", {"num_hidden_layers": 3, "cross_attention_layers": [1]},
        {"model_type": "mllama_vision_model", "hidden_size": 32, "intermediate_size": 64,
         "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2, "image_size": 16,
         "patch_size": 8, "vision_output_dim": 64, "max_num_tiles": 1,
         "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]]},
        {"image_token_index": _IMAGE},
    ),
}  # fmt: skip
"""Models that see: the language model's type, its fields beside `LLAMA_LIKE`, tower, and own."""

FAMILIES: tuple[str, ...] = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gemma3n_text",
    "gemma4_text", "phi", "phi3", "gpt2", "gpt_neo", "gpt_neox", "gptj", "gpt_bigcode", "codegen",
    "opt", "falcon", "bloom", "mpt", "stablelm", "granite", "olmo", "olmo2", "olmo3", "cohere",
    "cohere2", "glm", "glm4", "smollm3", "starcoder2", "exaone4", "nemotron", "minicpm3", "helium",
    "seed_oss", "persimmon", "biogpt", "ernie4_5", "hunyuan_v1_dense", "arcee", "apertus",
    "ministral", "xglm",
    "mixtral", "qwen2_moe", "qwen3_moe", "qwen3_next", "phimoe", "gpt_oss", "granitemoe", "olmoe",
    "deepseek_v2", "deepseek_v3", "glm4_moe", "llama4_text", "ernie4_5_moe", "minimax", "jamba",
    "mamba", "mamba2", "bamba", "falcon_h1", "granitemoehybrid", "lfm2", "qwen3_5_text",
    "recurrent_gemma", "rwkv",
    *PICTURED,
)  # fmt: skip
"""All that the conformance suite runs: dense, mixtures, hybrids and state space, with images."""


def tiny_fields(family: str, **changes: Any) -> tuple[str, dict[str, Any]]:
    """(`model_type`, fields) of a tiny config; `changes` are those of the language model."""
    if family not in PICTURED:
        return family, {**CONFIGS.get(family, LLAMA_LIKE), **changes}
    text_type, text, tower, own = PICTURED[family]
    inner = {"model_type": text_type, **LLAMA_LIKE, **text, **changes}
    tied = {k: v for k, v in changes.items() if k == "tie_word_embeddings"}
    return family, {"text_config": inner, "vision_config": tower, **own, **tied}
