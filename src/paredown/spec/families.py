"""What the config files of the known families say, and what they leave out.

A config leaves out what equals the default of its class in transformers (LLaVA's inner text
config leaves out nearly everything), so the defaults that cannot be read off tensor shapes stand
here. `tests/spec/test_families.py` compares them with the installed transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

KEYS: dict[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "intermediate_size": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"),
    "kv_heads": ("num_key_value_heads", "n_head_kv", "num_kv_heads"),
    "head_dim": ("head_dim", "d_kv"),
    "vocabulary": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "experts_per_token": ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k"),
    "expert_groups": ("n_group", "num_expert_group"),
    "groups_per_token": ("topk_group",),
}
"""Field of the model spec -> its names in configs, first match counts."""

GROUPED = {
    "deepseek_v3": (8, 4), "deepseek_v32": (8, 4), "axk1": (8, 4), "bailing_hybrid": (8, 4),
    "beam": (8, 4),
}  # fmt: skip
"""`model_type`s of mixtures -> groups of experts, and of these how many a token chooses, where the
config does not say; one group for all others."""

UNWALKED = {
    "rwkv": "it rescales weights and states every few blocks, so its blocks one after the other "
    "are another model",
}
"""`model_type` of the language model -> why nothing can be made of it block by block."""

ASKS_EMBEDDING = frozenset({"llama4_text", "mamba", "mamba2"})
"""`model_type`s whose code takes the weight of the embedding or head, if only to ask for its dtype
or device: packed ones have none."""
TEXT_CONFIGS = ("text_config", "llm_config", "language_config")
VISION_CONFIGS = ("vision_config", "vision_tower_config", "visual")


@dataclass(frozen=True)
class Family:
    """One family of models, by the `model_type` of its config."""

    name: str
    tied: bool = False
    """Whether the head shares the embedding when the config does not say."""
    defaults: Mapping[str, int] = field(default_factory=dict)
    """What a config that leaves a field out means; shapes of tensors go first."""
    mlp_factor: int | None = None
    """Width of the MLP over the hidden size when the config does not say."""
    expert_width: str | None = None
    """Config key of one expert's width, where `intermediate_size` means something else."""
    text: str | None = None
    """`model_type` of the inner text config of a multimodal wrapper, when it does not say."""


_LLAVA = Family("llava", text="llama")

FAMILIES: dict[str, Family] = {
    "llama": Family("llama", defaults={"heads": 32, "context": 2048}),
    "mistral": Family("mistral", defaults={"heads": 32, "kv_heads": 8, "context": 131072}),
    "mixtral": Family(
        "mixtral",
        defaults={
            "heads": 32,
            "kv_heads": 8,
            "context": 131072,
            "experts": 8,
            "experts_per_token": 2,
        },
    ),
    "qwen2": Family("qwen2", defaults={"heads": 32, "context": 32768}),
    "qwen3": Family("qwen3", defaults={"heads": 32, "head_dim": 128, "context": 32768}),
    "qwen2_moe": Family(
        "qwen2_moe",
        defaults={"heads": 16, "context": 32768, "experts": 60, "experts_per_token": 4},
        expert_width="moe_intermediate_size",
    ),
    "qwen3_moe": Family(
        "qwen3_moe",
        defaults={
            "heads": 32,
            "kv_heads": 4,
            "context": 32768,
            "experts": 128,
            "experts_per_token": 8,
        },
        expert_width="moe_intermediate_size",
    ),
    "gpt2": Family("gpt2", tied=True, defaults={"heads": 12, "context": 1024}, mlp_factor=4),
    "opt": Family("opt", tied=True, defaults={"heads": 12, "context": 2048}),
    "phi": Family("phi", defaults={"heads": 32, "context": 2048}),
    "phi3": Family("phi3", defaults={"heads": 32, "context": 4096}),
    "gemma": Family("gemma", tied=True, defaults={"heads": 16, "head_dim": 256, "context": 8192}),
    "gemma2": Family(
        "gemma2",
        tied=True,
        defaults={"heads": 8, "kv_heads": 4, "head_dim": 256, "context": 8192},
    ),
    "gemma3_text": Family(
        "gemma3",
        tied=True,
        defaults={"heads": 8, "kv_heads": 4, "head_dim": 256, "context": 131072},
    ),
    "gemma3": Family("gemma3", tied=True, text="gemma3_text"),
    "llava": _LLAVA,
    "llava_next": _LLAVA,
    "llava_onevision": Family("llava", text="qwen2"),
}
"""`model_type` of the config -> its family."""
