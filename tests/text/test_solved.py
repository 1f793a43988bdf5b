"""Training parts of benchmarks as calibration text, each with the right answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from paredown.errors import DataError
from paredown.evaluate.task_data import lm_eval_tasks
from paredown.spec.benchmarks import BENCHMARKS
from paredown.text.solved import HUB, TRAINING_SPLITS
from paredown.text.texts import check_calibration, open_source

_ARC = {"question": "Why?", "choices": {"text": ["so", "thus"], "label": ["1", "2"]},
        "answerKey": "2"}  # fmt: skip
_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "gsm8k/train.jsonl": ({"question": "1+1?", "answer": "#### 2"},
                          "Question: 1+1?\nAnswer: #### 2"),
    "arc_easy/train.jsonl": (_ARC, "Question: Why?\nAnswer: thus"),
    "arc_challenge/train.jsonl": (_ARC, "Question: Why?\nAnswer: thus"),
    "commonsense_qa/train.jsonl": (_ARC, "Question: Why?\nAnswer: thus"),
    "mmlu/dev/law.jsonl": ({"question": " Who?", "choices": ["I", "you"], "answer": 1},
                           "Who?\nA. I\nB. you\nAnswer: B"),
    "hellaswag/fewshot.jsonl": ({"activity_label": "Chess", "ctx": "She", "label": "1",
                                 "endings": ["sits", "wins"]}, "Chess: She wins"),
    "winogrande/train.jsonl": ({"sentence": "It fell as _ was wet.", "option1": "he",
                                "option2": "she", "answer": "2"}, "It fell as she was wet."),
}  # fmt: skip


def write(folder: Path) -> Path:
    for name, (row, _) in _ROWS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row) + "\n")
    return folder


@pytest.mark.parametrize("name", ["gsm8k", "arc_easy", "arc_challenge", "commonsenseqa", "mmlu",
                                  "hellaswag", "winogrande"])  # fmt: skip
def test_each_item_is_a_document_with_its_right_answer(name: str, tmp_path: Path) -> None:
    rows = BENCHMARKS[name].rows
    pattern = next(rows[split] for split in TRAINING_SPLITS if split in rows)
    (wanted,) = {text for path, (_, text) in _ROWS.items() if Path(path).match(pattern)}
    check_calibration(name, "pydoc")
    source = open_source(name, data_dir=write(tmp_path))
    assert source.documents("calibration") == [wanted]
    with pytest.raises(DataError, match="for calibration only"):
        source.documents("evaluation")


def test_what_has_no_training_part_is_refused(tmp_path: Path) -> None:
    for name in ("truthfulqa_mc1", "bigbench_hard", "humaneval"):
        with pytest.raises(DataError, match="no training part; those that have one are gsm8k"):
            open_source(name, data_dir=tmp_path).documents("calibration")
    with pytest.raises(DataError, match="looks like a test or validation split"):
        check_calibration("gsm8k:test", "pydoc")
    source = open_source("gsm8k:train", data_dir=write(tmp_path))
    assert len(source.documents("calibration")) == 1


def test_what_is_missing_or_malformed_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gsm8k/train\.jsonl is not there"):
        open_source("gsm8k", data_dir=tmp_path).documents("calibration")
    (write(tmp_path) / "arc_easy" / "train.jsonl").write_text('{"question": "Why?"}\n')
    with pytest.raises(DataError, match="line 1: not a solved item"):
        open_source("arc_easy", data_dir=tmp_path).documents("calibration")


def test_without_a_local_folder_the_hub_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows have the form of the local ones; here a table stands for it."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.delenv("PAREDOWN_DATA", raising=False)
    asked = []

    def load_dataset(repo: str, configuration: str | None, *, split: str) -> list[dict[str, Any]]:
        asked.append((repo, configuration, split))
        return [_ARC, _ARC | {"answerKey": "1"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_source("arc_easy")
    assert source.documents("calibration") == [
        "Question: Why?\nAnswer: thus", "Question: Why?\nAnswer: so",
    ]  # fmt: skip
    assert asked == [("allenai/ai2_arc", "ARC-Easy", "train")]

    def gone(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network\nand more words")

    monkeypatch.setattr(datasets, "load_dataset", gone)
    with pytest.raises(DataError, match=r"nor to be had from the hub \(no network\)"):
        open_source("gsm8k").documents("calibration")
    with pytest.raises(DataError, match="no training part"):
        open_source("humaneval").documents("calibration")


@pytest.mark.parametrize("name", HUB)
def test_the_hubs_training_part_is_the_one_that_lm_eval_names(name: str) -> None:
    """Its task files are the list of what lies where: ours is checked against them."""
    pytest.importorskip("lm_eval")
    repo, configuration, split = HUB[name]
    files = sorted(lm_eval_tasks().glob(BENCHMARKS[name].files))
    told = _task_text(files[0])
    assert re.search(rf"^dataset_path: {re.escape(repo)}$", told, re.M)
    assert re.search(rf"^(training|fewshot)_split: {split}$", told, re.M)
    if configuration not in (None, "all"):
        assert re.search(rf"^dataset_name: {re.escape(str(configuration))}$", told, re.M)


def _task_text(file: Path) -> str:
    """A task file with what it includes."""
    text = file.read_text()
    included = re.search(r"include\"?: \"?([\w.]+)", text)
    return text if included is None else text + (file.parent / included[1]).read_text()
