"""Tiny randomly initialised models, written as ordinary model folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from paredown.blocks.skeleton import auto_class
from paredown.text.ascii import CHARACTERS

VOCABULARY = CHARACTERS
WIDTH = 64
MLP_WIDTH = 160
_LLAMA_LIKE = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": MLP_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


_MOE = {
    "num_experts_per_tok": 2,
    "num_experts": 4,
    "moe_intermediate_size": 96,
}
_FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 2, "n_head": 4,
        "n_positions": 256, "bos_token_id": 0, "eos_token_id": 0,
    },
    "opt": {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "ffn_dim": MLP_WIDTH,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256,
        "word_embed_proj_dim": WIDTH, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    },
    "qwen3": {**_LLAMA_LIKE, "head_dim": WIDTH // 4},
    "gemma": {**_LLAMA_LIKE, "head_dim": WIDTH // 4},
    "gemma2": {**_LLAMA_LIKE, "head_dim": WIDTH // 4},
    "gemma3_text": {
        **_LLAMA_LIKE, "head_dim": WIDTH // 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "mixtral": {**_LLAMA_LIKE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**_LLAMA_LIKE, **_MOE, "shared_expert_intermediate_size": MLP_WIDTH},
    "qwen3_moe": {**_LLAMA_LIKE, **_MOE, "head_dim": WIDTH // 4},
}  # fmt: skip
_TOWER = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 32, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip


def tiny_config(family: str, **changes: Any) -> Any:
    """The config of a tiny model of a family (`llama`, `qwen2`, `opt`, `gpt2`, `llava`, ...).

    `changes` of `llava` are those of its language model.
    """
    from transformers import AutoConfig

    if family == "llava":
        text = {"model_type": "llama", **_LLAMA_LIKE, **changes}
        return AutoConfig.for_model(
            "llava",
            text_config=text,
            vision_config=_TOWER,
            image_token_index=VOCABULARY - 1,
            tie_word_embeddings=changes.get("tie_word_embeddings", False),
        )
    return AutoConfig.for_model(family, **(_FAMILIES.get(family, _LLAMA_LIKE) | changes))


def tiny_model(
    folder: Path,
    family: str = "llama",
    *,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    tokenizer: bool = True,
    **changes: Any,
) -> Path:
    """Write a tiny model (and a byte-level tokenizer) to `folder` and return it."""
    torch.manual_seed(seed)
    config = tiny_config(family, **changes)
    model = auto_class(config).from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim in {
                2,
                3,
            }:  # larger than the usual start, so that mistakes show in logits
                parameter.normal_(0.0, 0.08)
    model.save_pretrained(folder)
    if tokenizer:
        write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of single ASCII characters: id = code point."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {chr(i): i for i in range(1, VOCABULARY)} | {"<unk>": 0}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    fast.save_pretrained(folder)
