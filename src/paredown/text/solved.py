"""Training parts of benchmarks as text: each question with its right answer.

Pruning papers calibrate on them. The words are those of lm-eval's prompts, so that the text looks
like what the model will be asked; only training splits are read here, never what is scored on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from paredown.errors import DataError, MissingExtraError
from paredown.spec.benchmarks import BENCHMARKS
from paredown.spec.reading import json_rows, read_text
from paredown.spec.redact import first_line

TRAINING_SPLITS = ("train", "dev")
"""Names of the splits that are no evaluation; MMLU calls its worked examples `dev`."""
_FORMAT_ERRORS = (KeyError, ValueError, IndexError, TypeError, AttributeError)
"""What a row of another shape makes of the functions below."""


def _free_answer(row: dict[str, Any]) -> str:
    return f"Question: {row['question']}\nAnswer: {row['answer']}"


def _by_label(row: dict[str, Any]) -> str:
    choices = row["choices"]
    answer = choices["text"][choices["label"].index(row["answerKey"])]
    return f"Question: {row['question']}\nAnswer: {answer}"


def _lettered(row: dict[str, Any]) -> str:
    letters = "ABCD"[: len(row["choices"])]
    choices = [f"{a}. {b}" for a, b in zip(letters, row["choices"], strict=True)]
    answer = letters[row["answer"]]
    return "\n".join([str(row["question"]).strip(), *choices, f"Answer: {answer}"])


def _ending(row: dict[str, Any]) -> str:
    return f"{row['activity_label']}: {row['ctx']} {row['endings'][int(row['label'])]}"


def _blank(row: dict[str, Any]) -> str:
    if "_" not in row["sentence"]:
        raise ValueError(row["sentence"])
    return str(row["sentence"]).replace("_", row[f"option{int(row['answer'])}"])


_SOLVED: dict[str, Callable[[dict[str, Any]], str]] = {
    "gsm8k": _free_answer,
    "arc_easy": _by_label,
    "arc_challenge": _by_label,
    "commonsenseqa": _by_label,
    "mmlu": _lettered,
    "hellaswag": _ending,
    "winogrande": _blank,
}

HUB: dict[str, tuple[str, str | None, str]] = {
    "gsm8k": ("openai/gsm8k", "main", "train"),
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy", "train"),
    "arc_challenge": ("allenai/ai2_arc", "ARC-Challenge", "train"),
    "commonsenseqa": ("tau/commonsense_qa", None, "train"),
    # Subjects are configurations there; this one holds all of them.
    "mmlu": ("cais/mmlu", "all", "dev"),
    "hellaswag": ("Rowan/hellaswag", None, "train"),
    "winogrande": ("allenai/winogrande", "winogrande_xl", "train"),
}
"""Data set on the hub, its configuration and its training part: those that lm-eval's tasks name."""


def training_texts(name: str, data_dir: Path | None) -> list[str]:
    """The solved training items of a benchmark, in their order.

    Args:
        data_dir: folder with local rows; None asks the hub.

    Raises:
        DataError: it has no training part, the part is not to be had, or a row is malformed.
        MissingExtraError: the hub is to be asked, and the library that reads its data is missing.
    """
    if name not in _SOLVED:
        raise DataError(
            f"calibration on {name!r}: it has no training part; those that have one are "
            f"{', '.join(_SOLVED)}"
        )
    if data_dir is None:
        return _of_hub(name)
    rows = BENCHMARKS[name].rows
    pattern = next(rows[split] for split in TRAINING_SPLITS if split in rows)
    files = sorted(data_dir.glob(pattern))
    if not files:
        raise DataError(
            f"{name}: {data_dir / pattern} is not there; check --data-dir / PAREDOWN_DATA"
        )
    return [text for file in files for text in _read(file, _SOLVED[name])]


def _read(file: Path, solved: Callable[[dict[str, Any]], str]) -> list[str]:
    rows = json_rows(read_text(file, error=DataError), where=str(file), error=DataError)
    return _solved_items(rows, solved, where=f"{file}, line")


def _of_hub(name: str) -> list[str]:
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise MissingExtraError(
            f"calibration on {name} from the hub", "datasets", "tasks"
        ) from None
    repo, configuration, split = HUB[name]
    try:
        rows = load_dataset(repo, configuration, split=split)
    except (OSError, ValueError, DatasetsError) as error:  # offline and not in the cache, or gone
        raise DataError(
            f"calibration on {name}: its training part is neither in a local folder (--data-dir, "
            f"PAREDOWN_DATA) nor to be had from the hub ({first_line(error)})"
        ) from None
    return _solved_items(enumerate(rows, 1), _SOLVED[name], where=f"{repo}, row")


def _solved_items(
    rows: Iterable[tuple[int, Any]], solved: Callable[[dict[str, Any]], str], *, where: str
) -> list[str]:
    texts = []
    for number, row in rows:
        try:
            texts.append(solved(row))
        except _FORMAT_ERRORS:
            raise DataError(f"{where} {number}: not a solved item of this benchmark") from None
    return texts
