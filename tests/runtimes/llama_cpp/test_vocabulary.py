"""Tokenizers of many kinds in llama.cpp: proved by equal ids, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from paredown.errors import ConfigError
from paredown.runtimes.llama_cpp.architectures import Number
from paredown.runtimes.llama_cpp.texts import COUNT, proof_texts
from paredown.runtimes.llama_cpp.vocabulary import TokenType, Vocabulary, proved_cut

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace("{1,3}", "")
LETTERS = r"[a-z]+|[^a-z]+"
"""No model cuts texts so, and llama.cpp has no name for it."""


def byte_level(pattern: str | None, *, digits: bool = False) -> Any:
    """A byte-level BPE trained on the texts of the proof, cut as a pattern says."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    parts: list[Any] = []
    if digits:
        parts.append(pre_tokenizers.Digits(individual_digits=True))
    if pattern is not None:
        parts.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    core.pre_tokenizer = pre_tokenizers.Sequence(parts)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|end|>", "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(proof_texts(()), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>")


def sentence_piece(*, blank: bool) -> Any:
    """A BPE on characters with bytes to fall back to, as Llama 2 (`blank`) and Gemma have it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps: list[Any] = [normalizers.Prepend("▁")] if blank else []
    core.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    if not blank:
        core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=special, limit_alphabet=400, show_progress=False
    )
    core.train_from_iterator(proof_texts(()), trainer)
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    # Trained with the bytes as special tokens, so that they have ids; models have them as plain.
    import json

    told = json.loads(core.to_str())
    told["added_tokens"] = [t for t in told["added_tokens"] if not t["content"].startswith("<0x")]
    core = Tokenizer.from_str(json.dumps(told))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def proved(tokenizer: Any) -> str:
    from paredown.runtimes.llama_cpp.export import encode_with

    return proved_cut(Vocabulary(tokenizer, len(tokenizer), [0]), encode_with)


@pytest.mark.parametrize(
    ("tokenizer", "cut"),
    [
        (lambda: byte_level(None), "gpt-2"),
        (lambda: byte_level(LLAMA_3), "llama-bpe"),
        (lambda: byte_level(QWEN_2), "qwen2"),
        (lambda: byte_level(None, digits=True), "smollm"),
        (lambda: sentence_piece(blank=False), "default"),
    ],
)
def test_a_tokenizer_is_found_by_its_ids(tokenizer: Any, cut: str) -> None:
    assert proved(tokenizer()) == cut


def test_a_way_to_cut_that_llama_cpp_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # All of them take a process each, and half a minute.
    monkeypatch.setattr("paredown.runtimes.llama_cpp.vocabulary._CUTS", ("gpt-2", "qwen2"))
    with pytest.raises(ConfigError, match=r"reads \d+ of 1000 texts as other tokens"):
        proved(byte_level(LETTERS))


def test_a_wrong_name_is_seen_by_its_ids() -> None:
    """The proof tries names until one fits; one that never fits is told with how many differ."""
    vocabulary = Vocabulary(byte_level(LLAMA_3), 900, [0])
    texts, expected = vocabulary.texts()
    asked: list[Number] = []

    def encode(header: dict[str, Number], asked_texts: Sequence[str]) -> list[list[int]]:
        asked.append(header["tokenizer.ggml.pre"])
        right = header["tokenizer.ggml.pre"] == "qwen2"
        return [ids if right else [*ids, 1] for ids in expected]

    assert proved_cut(vocabulary, encode) == "qwen2"
    assert asked[0] == "llama-bpe"  # hinted by the pattern, and the first that is tried
    assert len(texts) == COUNT


def test_what_a_header_says() -> None:
    tokenizer = byte_level(None)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    header = Vocabulary(tokenizer, 1000, [0, 1]).header("gpt-2")
    kinds = header["tokenizer.ggml.token_type"]
    assert isinstance(kinds, list)
    assert kinds[:3] == [TokenType.CONTROL, TokenType.CONTROL, TokenType.NORMAL]
    assert kinds[-1] == TokenType.UNUSED  # the embedding has more rows than the tokenizer tokens
    assert (header["tokenizer.ggml.eos_token_id"], header["tokenizer.ggml.eot_token_id"]) == (0, 1)
    assert header["tokenizer.ggml.add_bos_token"] is False
    assert header["tokenizer.chat_template"] == "{{ messages[0]['content'] }}"


def test_scores_follow_the_merges() -> None:
    """What merges first has the highest score; single characters never compete."""
    vocabulary = Vocabulary(sentence_piece(blank=False), 1200, [2])
    header = vocabulary.header("default")
    tokens, scores = header["tokenizer.ggml.tokens"], header["tokenizer.ggml.scores"]
    assert isinstance(tokens, list)
    assert isinstance(scores, list)
    by_token = dict(zip(tokens, scores, strict=True))
    merges = vocabulary._core["model"]["merges"]
    first, last = "".join(merges[0]), "".join(merges[-1])
    assert 0 > by_token[first] > by_token[last]
    assert by_token["<s>"] == -1000.0


def test_kinds_that_llama_cpp_lacks_are_refused(tmp_path: Path) -> None:
    from paredown.testing.tiny import write_tokenizer
    from paredown.text.windows import load_tokenizer

    write_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match="kind WordLevel"):
        Vocabulary(load_tokenizer(tmp_path), 128, [0])


def test_the_texts_are_many_and_differ() -> None:
    texts = proof_texts(["<|end|>"])
    assert len(set(texts)) == len(texts) == COUNT
    assert any("<|end|>" in text for text in texts)
