"""A user's own questions, as a .jsonl file: multiple choice, or question and answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paredown.errors import DataError
from paredown.spec.reading import json_rows, read_text

Kind = Literal["choice", "answer"]
_FIELDS = {"choice": {"question", "choices", "answer"}, "answer": {"question", "answer"}}


@dataclass(frozen=True)
class Questions:
    """A checked file.

    Attributes:
        kind: `choice`: rows have `question`, `choices` and `answer`, an index;
            `answer`: rows have `question` and `answer`, a text.
    """

    path: Path
    kind: Kind
    rows: tuple[dict[str, Any], ...]


def read_questions(path: Path) -> Questions:
    """Read and check a file of questions, all lines of one kind.

    Multiple choice: `{"question": "...", "choices": ["...", "..."], "answer": 0}`, the answer an
    index from 0 or the text of the right choice. Exact match: `{"question": "...",
    "answer": "..."}`. Other fields are refused: a misspelt one would be lost.

    Raises:
        DataError: names the file, the line and the field.
    """
    rows: list[dict[str, Any]] = []
    kind: Kind | None = None
    text = read_text(path, error=DataError)
    for number, row in json_rows(text, where=str(path), error=DataError):
        where = f"{path}, line {number}"
        if not isinstance(row, dict):
            raise DataError(f'{where}: must be an object, such as {{"question": ...}}')
        kind = kind or ("choice" if "choices" in row else "answer")
        rows.append(_checked(row, kind, where))
    if kind is None:
        raise DataError(f"{path}: there is no question in it")
    return Questions(path, kind, tuple(rows))


def _checked(row: dict[str, Any], kind: Kind, where: str) -> dict[str, Any]:
    wanted = _FIELDS[kind]
    if missing := sorted(wanted - row.keys()):
        raise DataError(f"{where}: field {missing[0]!r} is missing")
    if extra := sorted(row.keys() - wanted):
        known = ", ".join(sorted(wanted))
        raise DataError(f"{where}: field {extra[0]!r} is not known; the fields are {known}")
    question = _text(row["question"], "question", where)
    if kind == "answer":
        return {"question": question, "answer": _text(row["answer"], "answer", where)}
    choices = row["choices"]
    if not isinstance(choices, list) or len(choices) < 2:
        raise DataError(f"{where}: field 'choices' must be a list of at least two texts")
    texts = [_text(c, f"choices[{i}]", where) for i, c in enumerate(choices)]
    if len(set(texts)) < len(texts):
        raise DataError(f"{where}: field 'choices' holds the same text twice")
    return {"question": question, "choices": texts, "answer": _index(row["answer"], texts, where)}


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field {field!r} must be a text that is not empty")
    return value


def _index(answer: Any, choices: list[str], where: str) -> int:
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    raise DataError(
        f"{where}: field 'answer' must be an index from 0 to {len(choices) - 1} or one of the "
        f"choices, got {answer!r}"
    )
