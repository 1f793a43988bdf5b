"""Generation settings: all of the model's own for users, none but the end tokens in benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import paredown
from paredown.errors import ModelError
from paredown.runtimes.torch.generation import end_tokens, written_text
from paredown.runtimes.torch.scorer import CausalScorer
from paredown.testing.tiny import tiny_model
from tests.methods.test_families import apply

Rewrite = Callable[[Path], Path]


def with_settings(folder: Path, **settings: Any) -> Path:
    file = folder / "generation_config.json"
    told = json.loads(file.read_text())
    told.pop("_from_model_config", None)
    file.write_text(json.dumps(told | settings))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return with_settings(
        tiny_model(tmp_path / "m"), eos_token_id=[0, 65, 66], repetition_penalty=1.7
    )


def tokenizer_of(folder: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = tokenizer.pad_token = "<unk>"
    return tokenizer


def write(folder: Path, prompt: str = "HIJ", tokens: int = 12) -> str:
    tokenizer = tokenizer_of(folder)
    scorer = CausalScorer(paredown.load(folder), tokenizer, device="cpu", share_prompts=False)
    ((_, written),) = scorer.generate([tokenizer.encode(prompt)], stops=[], max_tokens=tokens)
    return written.text


def test_a_damaged_file_is_named(model: Path) -> None:
    (model / "generation_config.json").write_text("[" * 5000)
    with pytest.raises(ModelError, match=r"generation_config\.json"):
        paredown.load(model)


def test_every_end_token_is_known(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"eos_token_id": 70}))
    loaded, tokenizer = paredown.load(model), tokenizer_of(model)
    assert set(end_tokens(loaded, tokenizer)) == {0, 65, 66, 70}
    tokenizer.eos_token = None
    loaded.generation_config.eos_token_id = None
    loaded.config.eos_token_id = None
    assert end_tokens(loaded, tokenizer) == []


def test_a_benchmark_ends_at_any_of_them(tmp_path: Path) -> None:
    free = write(tiny_model(tmp_path / "free"))
    assert len(free.split()) == 12
    # The first letter that it writes, as one of two end tokens, ends the text before it.
    first = ord(free.split()[0])
    ends = with_settings(tiny_model(tmp_path / "ends"), eos_token_id=[0, first])
    assert write(ends) == ""


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 5.0},
        {"no_repeat_ngram_size": 1},
        {"suppress_tokens": list(range(1, 100))},
        {"do_sample": True, "temperature": 9.0},
        {"min_new_tokens": 12},
        {"num_beams": 4},
        {"max_length": 3},
    ],
)
def test_no_setting_of_the_model_acts_inside_a_benchmark(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    plain = tiny_model(tmp_path / "plain")
    assert write(with_settings(tiny_model(tmp_path / "set"), **settings)) == write(plain)


def test_the_models_own_settings_come_back_after_a_benchmark(model: Path) -> None:
    tokenizer = tokenizer_of(model)
    loaded = paredown.load(model)
    scorer = CausalScorer(loaded, tokenizer, device="cpu", share_prompts=False)
    list(scorer.generate([tokenizer.encode("HIJ")], stops=[], max_tokens=2))
    assert loaded.generation_config.repetition_penalty == 1.7


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama 2 and Mistral have it: a blank is a letter, and the first one is put and taken."""
    pieces = ["<unk>", "<s>", "</s>", "<0x0A>", "▁▁▁", "▁return", "▁x", "def", "▁f", "▁", ","]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    for code in range(33, 127):
        vocabulary.setdefault(chr(code), len(vocabulary))
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def test_text_is_decoded_behind_its_prompt() -> None:
    tokenizer = sentencepiece()

    def ids(tokens: list[str]) -> list[int]:
        return [tokenizer.get_vocab()[token] for token in tokens]

    prompt = tokenizer.encode("def f(x):\n")
    assert written_text(tokenizer, prompt, ids(["▁▁▁", "▁return", "▁x"]), []) == "    return x"
    ended = ids(["▁x", "</s>", "▁x"])
    assert written_text(tokenizer, prompt, ended, [2]) == " x"
    tidied = ids(["▁x", "▁", ","])
    assert written_text(tokenizer, prompt, tidied, []) == " x ,"


def test_a_character_that_begins_in_the_prompt_is_whole() -> None:
    core = Tokenizer(models.BPE(vocab={"<0xC3>": 0, "<0xA9>": 1, "a": 2}, merges=[]))
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    assert written_text(tokenizer, [2, 0], [1, 2], []) == "éa"


@pytest.mark.parametrize(
    "strategy",
    [
        "rtn(bits=8, group_size=32)",
        "magnitude(ratio=0.5, storage='sparse')",
        "l2_structured(ratio=0.3)",
    ],
)
def test_an_artifact_writes_as_its_base(tmp_path: Path, model: Path, strategy: str) -> None:
    artifact = apply(strategy, model, tmp_path / "artifact")
    base, small = (paredown.load(f).generation_config for f in (model, artifact))
    assert base.eos_token_id == small.eos_token_id == [0, 65, 66]
    assert base.repetition_penalty == small.repetition_penalty == 1.7
