"""Randomly initialised models of real shapes, for speed and memory only."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from paredown.artifact.source import locate


def random_llama(folder: Path, *, layers: int, width: int, mlp: int, vocabulary: int) -> Path:
    """Write a random bf16 Llama with the demo's tokenizer to `folder`."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=max(width // 256, 1),
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for file in locate("demo").glob("*token*"):
        shutil.copyfile(file, folder / file.name)
    return folder
