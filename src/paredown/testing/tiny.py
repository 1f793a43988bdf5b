"""Tiny randomly initialised models, written as ordinary model folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCABULARY = 128
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


def tiny_config(family: str, **changes: Any) -> Any:
    """The config of a tiny model of a family (`llama`, `qwen2`, `opt`, `gpt2`, ...)."""
    from transformers import AutoConfig

    settings: dict[str, Any]
    if family == "gpt2":
        settings = {
            "vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 2, "n_head": 4,
            "n_positions": 256, "bos_token_id": 0, "eos_token_id": 0,
        }  # fmt: skip
    elif family == "opt":
        settings = {
            "vocab_size": VOCABULARY, "hidden_size": WIDTH, "ffn_dim": MLP_WIDTH,
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256,
            "word_embed_proj_dim": WIDTH, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
        }  # fmt: skip
    else:
        settings = dict(_LLAMA_LIKE)
        if family in {"qwen3", "gemma", "gemma2"}:
            settings["head_dim"] = WIDTH // 4
    return AutoConfig.for_model(family, **(settings | changes))


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
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, **changes), dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:  # larger than the usual start, so that mistakes show in logits
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
