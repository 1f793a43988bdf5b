"""A text is found too short before anything is loaded; one's own file of 100 kB is enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from paredown.coordinate.setup import check_enough, check_text
from paredown.errors import DataError
from paredown.runtimes.torch import writer
from paredown.spec.run import Amount, CalibrationConfig, EvaluateConfig
from paredown.store.cache import Cache
from paredown.testing.tiny import tiny_model
from paredown.text.amount import Need, counter
from paredown.text.windows import TextRequest, windows
from tests.samples import write_text_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def need(part: str, count: int, length: int = 32, least: int | None = None) -> Need:
    amount = Amount(count, count if least is None else least)
    return Need(part=part, amount=amount, length=length)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["evaluation", "calibration"])
def test_the_quick_count_is_that_of_the_windows(folder: Path, tmp_path: Path, part: str) -> None:
    text = str(write_text_file(tmp_path / "text.txt"))
    found = windows(
        TextRequest(text, None, None), part, folder, count=10**6, least=1, length=32,  # type: ignore[arg-type]
        seed=0, cache=Cache(tmp_path / "cache"), write=writer.write_texts,
    )  # fmt: skip
    documents = TextRequest(text, None, None).sources()[0].documents(part)  # type: ignore[arg-type]
    count = counter(folder)
    assert count is not None
    assert count(documents, 32, enough=10**6) == len(found)
    assert count(documents, 32, enough=3) >= 3


def test_a_short_text_is_refused_and_a_shorter_than_usual_is_noted(
    folder: Path, tmp_path: Path
) -> None:
    text = check_text(str(write_text_file(tmp_path / "text.txt")), None, None)
    assert check_enough(text, folder, [need("evaluation", 20)]) == ()
    with pytest.raises(DataError, match=r"evaluation part has \d+ windows .* 9999 are needed; .*"
                                        r"--eval-tokens"):  # fmt: skip
        check_enough(text, folder, [need("evaluation", 9999)])
    with pytest.raises(DataError, match=r"calibration part has .*--calibration-samples"):
        check_enough(text, folder, [need("evaluation", 20), need("calibration", 9999)])
    (note,) = check_enough(text, folder, [need("evaluation", 9999, least=20)])
    assert "all of them are used, where 9999 are usual" in note


def test_what_is_not_named_may_be_less(folder: Path) -> None:
    assert EvaluateConfig().amount == (8192, 2048)
    assert EvaluateConfig().amount.windows(500) == (17, 5)
    assert EvaluateConfig(tokens=4096).amount == (4096, 4096)
    assert CalibrationConfig().amount == (32, 8)
    assert CalibrationConfig(samples=2).amount == (2, 2)


def test_a_damaged_tokenizer_is_told(tmp_path: Path) -> None:
    assert counter(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.json: the tokenizer cannot be read"):
        counter(tmp_path)
