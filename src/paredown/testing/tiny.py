"""Tiny randomly initialised models, written as ordinary model folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from paredown.blocks.skeleton import auto_class
from paredown.testing.zoo import LAYERS, MLP_WIDTH, VOCABULARY, WIDTH, tiny_fields

__all__ = [
    "LAYERS",
    "MLP_WIDTH",
    "VOCABULARY",
    "WIDTH",
    "tiny_config",
    "tiny_model",
    "write_tokenizer",
]


def tiny_config(family: str, **changes: Any) -> Any:
    """The config of a tiny model of a family (`llama`, `qwen2`, `opt`, `gpt2`, `llava`, ...).

    `changes` of a model that sees are those of its language model.
    """
    from transformers import AutoConfig

    model_type, fields = tiny_fields(family, **changes)
    return AutoConfig.for_model(model_type, **fields)


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
