"""The tokenizer of a model as the header of a GGUF file, proved by equal token ids.

llama.cpp has its own tokenizers. Byte-level BPE is told by its tokens and merges and the *name* of
a way to cut texts before ("pre"), of which it knows some fifty; the name is found by trying, and no
file is written whose token ids differ. BPE on characters (SentencePiece: Llama 2, Mistral, Gemma)
is told by tokens and scores: what merges first has the highest score.

Source: src/llama-vocab.cpp of llama.cpp (`llm_tokenizer_bpe`, `llm_tokenizer_spm`).
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

from paredown.errors import ConfigError
from paredown.runtimes.llama_cpp.architectures import Number
from paredown.runtimes.llama_cpp.texts import proof_texts


class TokenType(IntEnum):
    """llama_token_type of llama.h."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_CUTS = (
    "gpt-2", "llama-bpe", "qwen2", "smollm", "gpt-4o", "tekken", "deepseek-llm", "deepseek-coder",
    "deepseek-v3", "falcon", "starcoder", "command-r", "stablelm2", "olmo", "dbrx", "smaug-bpe",
    "exaone", "bloom", "gpt3-finnish", "chatglm-bpe", "viking", "codeshell", "refact", "mpt",
    "qwen35", "kimi-k2", "superbpe", "trillion", "seed-coder", "default",
)  # fmt: skip
"""Ways to cut texts that llama.cpp knows and that differ, the most frequent first."""
_HINTS = (
    (r"\p{N}{1,3}", "llama-bpe"),
    (r"\p{N}|", "qwen2"),
    ("individual_digits", "smollm"),
)
"""What stands in a tokenizer -> which name is tried first; only the order depends on it."""
_SPECIAL = {
    "bos": "bos_token_id", "eos": "eos_token_id", "unknown": "unk_token_id",
    "seperator": "sep_token_id", "padding": "pad_token_id", "mask": "mask_token_id",
}  # fmt: skip
"""Names in the file (llama.cpp spells one of them so) -> attributes of the tokenizer."""
_SPECIAL_SCORE = -1000.0
_NO_MERGE = "ĀĀ ĀĀ"
"""Stands for no merges at all, which a file cannot say: no part of a text begins as two letters."""

Encode = Callable[[dict[str, Number], Sequence[str]], list[list[int]]]
"""Token ids of texts as llama.cpp makes them of such a header."""


class Vocabulary:
    """A fast tokenizer of transformers, read as llama.cpp wants it told."""

    def __init__(self, tokenizer: Any, rows: int, ends: Sequence[int]) -> None:
        """Read it.

        Args:
            rows: of the embedding; tokens beyond those of the tokenizer are unused ones.
            ends: tokens that end a text, the first of them that of the text.

        Raises:
            ConfigError: a kind of tokenizer that llama.cpp does not have.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ConfigError("llama.cpp: the tokenizer has no tokenizer.json, which is needed")
        self._tokenizer, self._rows, self._ends = tokenizer, rows, list(ends)
        self._core: dict[str, Any] = json.loads(backend.to_str())
        model = self._core["model"]
        if model.get("type") != "BPE":
            raise ConfigError(
                f"llama.cpp: a tokenizer of the kind {model.get('type')} is not written as GGUF "
                "here; BPE is"
            )
        self._is_bytes = '"ByteLevel"' in json.dumps(
            [self._core.get("pre_tokenizer"), self._core.get("decoder")]
        )

    def header(self, cut: str) -> dict[str, Number]:
        """The header's keys, with a way to cut texts by name."""
        tokens, kinds = self._tokens()
        found: dict[str, Number] = {
            "model": "gpt2" if self._is_bytes else "llama",
            "pre": cut,
            "tokens": tokens,
            "token_type": kinds,
        }
        merges = [m if isinstance(m, str) else " ".join(m) for m in self._core["model"]["merges"]]
        if self._is_bytes:
            found["merges"] = merges or [_NO_MERGE]
        else:
            found["scores"] = self._scores(tokens, kinds)
            found["add_space_prefix"] = self._adds_blank()
        found |= self._special()
        found = {f"tokenizer.ggml.{key}": value for key, value in found.items()}
        template = self._tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        if template:
            found["tokenizer.chat_template"] = template
        return found

    def cuts(self) -> tuple[str, ...]:
        """Names to try, the likeliest first."""
        if not self._is_bytes:
            return ("default",)
        told = json.dumps(self._core.get("pre_tokenizer"), ensure_ascii=False).replace("\\\\", "\\")
        hinted = [name for mark, name in _HINTS if mark in told]
        return tuple(dict.fromkeys((*hinted, *_CUTS)))

    @property
    def normalizes(self) -> bool:
        """Whether it composes characters (NFC) before it reads them, which llama.cpp does not."""
        return '"NFC"' in json.dumps(self._core.get("normalizer"))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how texts are read."""
        if not self.normalizes:
            return ()
        return (
            "the tokenizer composes characters (NFC) and llama.cpp does not: texts with combining "
            "marks have other tokens there, unless they are composed before",
        )

    @property
    def identity(self) -> Any:
        """What the proof depends on."""
        return [self._core, self._rows, self._special()]

    def texts(self) -> tuple[list[str], list[list[int]]]:
        """Texts of the proof, and their token ids here.

        A text is left out where the tokenizer itself does not know a part of it; characters are
        composed where the tokenizer composes them.
        """
        texts = proof_texts([t["content"] for t in self._core["added_tokens"] if t["special"]])
        if self.normalizes:
            texts = [unicodedata.normalize("NFC", text) for text in texts]
        unknown = self._core["model"].get("unk_token")
        lost = self._tokenizer.convert_tokens_to_ids(unknown) if unknown else None
        said = {t["content"] for t in self._core["added_tokens"]}
        pairs = [(text, list(self._tokenizer.encode(text))) for text in texts]
        kept = [
            (text, ids)
            for text, ids in pairs
            if max(ids, default=0) < self._rows  # else the model has no embedding for it
            and (lost is None or lost not in ids or (unknown in said and unknown in text))
        ]
        return [text for text, _ in kept], [ids for _, ids in kept]

    def _tokens(self) -> tuple[list[str], list[int]]:
        tokens = [f"[PAD{i}]" for i in range(self._rows)]
        kinds = [int(TokenType.UNUSED)] * self._rows
        unknown = self._core["model"].get("unk_token")
        falls_back = bool(self._core["model"].get("byte_fallback"))
        for text, i in self._core["model"]["vocab"].items():
            if i < self._rows:
                tokens[i], kinds[i] = text, _kind(text, unknown, falls_back=falls_back)
        for added in self._core["added_tokens"]:
            i = added["id"]
            # The unknown token of a tokenizer that has one keeps its type.
            if i < self._rows and kinds[i] != TokenType.UNKNOWN:
                kinds[i] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
                tokens[i] = added["content"]
        return tokens, kinds

    def _scores(self, tokens: Sequence[str], kinds: Sequence[int]) -> list[float]:
        """The earlier two tokens merge, the higher the score of what they become."""
        rank: dict[str, int] = {}
        for merge in self._core["model"]["merges"]:
            parts = merge.split(" ") if isinstance(merge, str) else merge
            rank.setdefault("".join(parts), len(rank))
        # Characters, which no merge makes, come first: they never compete with one.
        scores = [-float(rank[t]) - 1.0 if t in rank else 0.0 for t in tokens]
        for i, kind in enumerate(kinds):
            if kind in {TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED}:
                scores[i] = _SPECIAL_SCORE
        return scores

    def _adds_blank(self) -> bool:
        """Whether a text is read as if a blank stood before it."""
        ids = self._tokenizer.encode("x", add_special_tokens=False)
        first = self._tokenizer.convert_ids_to_tokens(ids)[0]
        return bool(str(first).startswith("▁"))

    def _special(self) -> dict[str, Number]:
        found: dict[str, Number] = {}
        for name, attribute in _SPECIAL.items():
            token = getattr(self._tokenizer, attribute, None)
            if token is not None and token < self._rows:
                found[f"{name}_token_id"] = int(token)
        if self._ends:
            found["eos_token_id"] = self._ends[0]
        # llama.cpp has names for two ends more; others it finds by their text.
        for name, token in zip(("eot", "eom"), self._ends[1:], strict=False):
            found[f"{name}_token_id"] = token
        around = self._tokenizer.encode("x")
        inner = self._tokenizer.encode("x", add_special_tokens=False)
        found["add_bos_token"] = len(around) > len(inner) and around[0] == found.get("bos_token_id")
        found["add_eos_token"] = len(around) > len(inner) and around[-1] == found.get(
            "eos_token_id"
        )
        return found


def _kind(text: str, unknown: str | None, *, falls_back: bool) -> int:
    if text == unknown:
        return TokenType.UNKNOWN
    is_byte = falls_back and len(text) == 6 and text.startswith("<0x") and text.endswith(">")
    return TokenType.BYTE if is_byte else TokenType.NORMAL


def proved_cut(vocabulary: Vocabulary, encode: Encode) -> str:
    """The name of a way to cut texts with which every token id is the same.

    Raises:
        ConfigError: there is none; with the first text that differs.
    """
    texts, expected = vocabulary.texts()
    if not texts:
        raise ConfigError("llama.cpp: the tokenizer knows none of the texts that it is tried on")
    best = (-1, "", "")
    for cut in vocabulary.cuts():
        found = encode(vocabulary.header(cut), texts)
        other = [t for t, a, b in zip(texts, expected, found, strict=True) if a != b]
        if not other:
            return cut
        best = max(best, (len(texts) - len(other), cut, other[0]))
    same, cut, text = best
    raise ConfigError(
        f"llama.cpp reads {len(texts) - same} of {len(texts)} texts as other tokens than the "
        f"model's tokenizer (at best, as {cut!r}), such as {text[:60]!r}; it would answer "
        "differently, so no file is written"
    )
