"""Bytes of a GGUF file besides its tensors: told beforehand, never too few."""

from __future__ import annotations

import json
from pathlib import Path

from paredown.runtimes.llama_cpp.header import header_bytes
from paredown.runtimes.registry import engine
from paredown.spec.infer import infer_spec
from paredown.testing.tiny import tiny_model
from tests.runtimes.llama_cpp.test_families import base_of


def test_a_file_is_no_larger_than_was_told(tmp_path: Path) -> None:
    base = base_of(tmp_path, "llama")
    spec = infer_spec(base)
    package = engine("llama.cpp").export(base, tmp_path / "out")
    rest = package.nbytes - engine("llama.cpp").weights_bytes(spec)
    told = engine("llama.cpp").other_bytes(spec)
    assert 0.4 * told < rest <= told


def test_every_part_of_a_tokenizer_counts(tmp_path: Path) -> None:
    """By hand: a token of 4 bytes takes its length (8), type (4) and score (4)."""
    spec = infer_spec(tiny_model(tmp_path / "m")).model_copy(update={"vocabulary": 0})
    before = header_bytes(spec)
    file = tmp_path / "m" / "tokenizer.json"
    told = json.loads(file.read_text())
    told["model"]["vocab"]["qzxj"] = 99_999
    file.write_text(json.dumps(told))
    assert header_bytes(spec) == before + 4 + 8 + 4 + 4
    (tmp_path / "m" / "chat_template.jinja").write_text("x" * 1000)
    assert header_bytes(spec) == before + 20 + 1000
    more = spec.model_copy(update={"vocabulary": 100_000})
    assert header_bytes(more) > header_bytes(spec) + 16 * 90_000  # rows without a token
    file.unlink()
    assert header_bytes(spec) == 0
