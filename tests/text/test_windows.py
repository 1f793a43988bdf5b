"""Windows of token ids: shape, beginnings, seeds, and texts that are too short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from paredown.errors import DataError
from paredown.runtimes.torch import writer
from paredown.store.cache import Cache
from paredown.testing.tiny import VOCABULARY, tiny_model, write_tokenizer
from paredown.text.windows import TextRequest, load_tokenizer, windows
from tests.samples import write_text_file

BOS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text_file(tmp_path / "text.txt")


def cut(folder: Path, text: str | Path, tmp_path: Path, **changes: Any) -> torch.Tensor:
    settings: dict[str, Any] = {
        "part": "calibration",
        "folder": folder,
        "count": 5,
        "length": 32,
        "seed": 0,
        "cache": Cache(tmp_path / "cache"),
        "write": writer.write_texts,
    }
    request = TextRequest(str(text), changes.pop("calibration", None), None)
    return windows(request, **(settings | changes))


def rows(ids: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(row) for row in ids.tolist()}


def test_shape_and_dtype(folder: Path, text: Path, tmp_path: Path) -> None:
    found = cut(folder, text, tmp_path, count=7, length=16)
    assert found.shape == (7, 16)
    assert found.dtype == torch.int64


def test_windows_do_not_overlap_and_follow_the_text(
    folder: Path, text: Path, tmp_path: Path
) -> None:
    found = cut(folder, text, tmp_path, part="evaluation", count=20)
    joined = "".join(map(chr, found.flatten().tolist()))
    assert joined in "\n\n".join(
        TextRequest(str(text), None, None).sources()[0].documents("evaluation")
    )


def test_the_same_seed_gives_the_same_windows(folder: Path, text: Path, tmp_path: Path) -> None:
    one = cut(folder, text, tmp_path, seed=1)
    assert torch.equal(one, cut(folder, text, tmp_path, seed=1))
    assert not torch.equal(one, cut(folder, text, tmp_path, seed=2))


def test_evaluation_does_not_depend_on_the_seed(folder: Path, text: Path, tmp_path: Path) -> None:
    one, two = (cut(folder, text, tmp_path, part="evaluation", seed=s) for s in (1, 2))
    assert torch.equal(one, two)


def test_parts_share_no_window(folder: Path, text: Path, tmp_path: Path) -> None:
    held_out = cut(folder, text, tmp_path, part="evaluation", count=40, length=128)
    training = cut(folder, text, tmp_path, count=100, length=128)
    assert len(rows(training)) == 100  # drawn without replacement
    assert not rows(held_out) & rows(training)


def test_calibration_from_another_file(folder: Path, text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n\n".join(f"Letters {'qxz'[i % 3] * 40} {i}" for i in range(400)))
    found = cut(folder, text, tmp_path, calibration=str(other))
    assert set("".join(map(chr, found.flatten().tolist()))) <= set(other.read_text())
    same = cut(folder, text, tmp_path, part="evaluation")
    assert torch.equal(cut(folder, text, tmp_path, part="evaluation", calibration=str(other)), same)


@pytest.mark.parametrize("part", ["calibration", "evaluation"])
def test_too_short_a_text_says_how_much_there_is(
    folder: Path, text: Path, tmp_path: Path, part: str
) -> None:
    with pytest.raises(
        DataError, match=rf"its {part} part has \d+ windows of 32 tokens, 10000 are"
    ):
        cut(folder, text, tmp_path, part=part, count=10_000)


@pytest.fixture
def beginning(folder: Path, tmp_path: Path) -> Path:
    """A tokenizer that puts a BOS token in front of every text."""
    from tokenizers import Tokenizer, processors

    out = tmp_path / "with-bos"
    out.mkdir()
    write_tokenizer(out)
    core = Tokenizer.from_file(str(out / "tokenizer.json"))
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token=chr(BOS))
    fast.save_pretrained(out)
    return out


def test_every_window_begins_as_the_tokenizer_begins_texts(
    folder: Path, beginning: Path, text: Path, tmp_path: Path
) -> None:
    with_bos = cut(beginning, text, tmp_path, part="evaluation")
    assert with_bos.shape == (5, 32)
    assert (with_bos[:, 0] == BOS).all()
    assert (with_bos[:, 1:] != BOS).all()
    plain = cut(folder, text, tmp_path, part="evaluation")
    assert torch.equal(with_bos[:, 1:].flatten(), plain.flatten()[: 5 * 31])  # no token is lost


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "bare", tokenizer=False)
    with pytest.raises(DataError, match="the tokenizer cannot be read"):
        load_tokenizer(model)


def test_text_that_the_model_writes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_SELF_LENGTH", 24)
    written = {
        part: cut(folder, "self", tmp_path, part=part) for part in ("calibration", "evaluation")
    }
    for ids in written.values():
        assert ids.shape == (5, 32)
        assert ids.min() >= 0
        assert ids.max() < VOCABULARY
    assert not torch.equal(written["calibration"], written["evaluation"])
    again = cut(folder, "self", tmp_path, write=None)  # not asked again: it is cached
    assert torch.equal(again, written["calibration"])


def test_writing_text_tells_how_far_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_SELF_LENGTH", 24)
    heard: list[tuple[float, str]] = []
    cut(folder, "self", tmp_path, progress=lambda share, words: heard.append((share, words)))
    shares = [share for share, _ in heard]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert heard[0][1] == "the model writes its text: 14 of 168 tokens"


def test_repetitive_text_is_dropped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_sample_batch", lambda *args: [torch.zeros(24, dtype=torch.int64)])
    with pytest.raises(DataError, match="only repetitive text"):
        cut(folder, "self", tmp_path)


def test_self_written_text_belongs_to_the_models_content(tmp_path: Path) -> None:
    """Not to its path, nor to its weights alone: another config writes another text."""
    model = tiny_model(tmp_path / "model")
    written: list[Path] = []

    def write(folder: Path, tokens: int, *_: Any) -> torch.Tensor:
        written.append(folder)
        return torch.full((tokens,), len(written))

    first = cut(model, "self", tmp_path, write=write)
    assert torch.equal(cut(model, "self", tmp_path, write=write), first)
    config = model / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-04'))
    assert not torch.equal(cut(model, "self", tmp_path, write=write), first)
    assert len(written) == 2
