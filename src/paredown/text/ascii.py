"""A tokenizer of single ASCII characters for models of no meaning: id = code point."""

from __future__ import annotations

from pathlib import Path

CHARACTERS = 128
"""Tokens that it has; a model may have more, which no text becomes."""


def write_byte_tokenizer(folder: Path) -> None:
    """Write a byte-level BPE without merges; engines with tokenizers of their own have it too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = bytes_to_unicode()
    vocabulary = {letters[i]: i for i in range(1, CHARACTERS)} | {"<unk>": 0}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>").save_pretrained(folder)
