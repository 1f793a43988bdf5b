"""Versions of a model that a user may serve: as stored, at a precision, an artifact, a strategy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from paredown.errors import ConfigError, did_you_mean
from paredown.hardware.memory import Version
from paredown.methods import registry
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.strategy import Strategy
from paredown.spec.target import Target
from paredown.spec.weights import Precision, pieces_at, stored_pieces

WORDS: dict[str, Precision] = {
    "fp32": "fp32", "bf16": "fp16", "fp16": "fp16", "fp8": "fp8", "int8": "int8", "int4": "int4",
}  # fmt: skip
"""How precisions are called; bf16 and fp16 have the same size."""
USUAL = ("bf16", "fp8", "int8", "int4")
"""What an unquantized model is asked at when nobody says."""


def versions_of(spec: ModelSpec, words: str | None, target: Target) -> list[Version]:
    """The versions that a user names, separated by commas.

    Args:
        words: precisions (`bf16,int4`), folders of artifacts, strategies (`gptq(bits=4)`); None:
            the usual precisions, or what is stored of a model that is quantized already.
        target: for which strategies are checked.

    Raises:
        ConfigError: a word is none of these, or a strategy cannot run on this model.
    """
    if words is None:
        if spec.quantization is not None:
            return [stored_version(spec)]
        return [_at(spec, word) for word in USUAL]
    found = [_version(spec, word, target) for word in split_words(words)]
    if not found:
        raise ConfigError("--precision is empty; give some of " + ", ".join(WORDS))
    return found


def stored_version(spec: ModelSpec, name: str | None = None) -> Version:
    """A model as its files are."""
    called = name or f"as stored ({spec.quantization or spec.dtype})"
    return Version(name=called, spec=spec, pieces=stored_pieces(spec))


def strategy_version(spec: ModelSpec, strategy: Strategy, target: Target) -> Version:
    """What a strategy would make of a model, from its methods' own predictions.

    Raises:
        ConfigError: it cannot run on this model.
    """
    made = registry.check(strategy, spec, target)
    return stored_version(made, registry.label(strategy))


def _version(spec: ModelSpec, word: str, target: Target) -> Version:
    if word.lower() in WORDS:
        return _at(spec, word.lower())
    if Path(word).expanduser().is_dir():
        return stored_version(infer_spec(Path(word).expanduser()), word)
    names = registry.names()
    method = word.partition("(")[0].strip()
    if method not in names:
        raise ConfigError(
            f"--precision {word[:60]!r}: neither a precision nor a folder nor a strategy; "
            f"{did_you_mean(method, WORDS)}"
        )
    return strategy_version(spec, registry.for_runtime(word, target.runtime), target)


def _at(spec: ModelSpec, word: str) -> Version:
    return Version(name=word, spec=spec, pieces=pieces_at(spec, WORDS[word]))


def split_words(text: str) -> Iterator[str]:
    """What stands between commas that are in no bracket."""
    depth, word = 0, ""
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            if word.strip():
                yield word.strip()
            word = ""
        else:
            word += character
    if word.strip():
        yield word.strip()
