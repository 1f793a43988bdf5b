"""A user's own questions: what is wrong is told with file, line and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paredown.errors import DataError
from paredown.evaluate.userdata import read_questions
from paredown.spec.benchmarks import is_item_file

CHOICE = '{"question": "q", "choices": ["a", "b"], "answer": 1}'
ANSWER = '{"question": "q", "answer": "a"}'


def test_choices_by_index_or_by_text(tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text(CHOICE + "\n\n" + CHOICE.replace("1}", '"a"}') + "\n")
    found = read_questions(file)
    assert found.kind == "choice"
    assert [row["answer"] for row in found.rows] == [1, 0]
    assert is_item_file(str(file))


def test_question_and_answer(tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text(ANSWER)
    assert read_questions(file).kind == "answer"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: no JSON"),
        ("[1]", "line 2: must be an object"),
        ('{"question": "q", "choices": ["a", "b"]}', "line 2: field 'answer' is missing"),
        ('{"question": "q", "answer": "a"}', "line 2: field 'choices' is missing"),
        (CHOICE.replace('"question"', '"question": "q", "hint"'), "field 'hint' is not known"),
        (CHOICE.replace('"q"', '" "'), "field 'question' must be a text"),
        (CHOICE.replace('["a", "b"]', '["a"]'), "field 'choices' must be a list of at least two"),
        (CHOICE.replace('["a", "b"]', '["a", 3]'), r"field 'choices\[1\]' must be a text"),
        (CHOICE.replace('["a", "b"]', '["a", "a"]'), "the same text twice"),
        (CHOICE.replace("1}", "2}"), "index from 0 to 1 or one of the choices, got 2"),
        (CHOICE.replace("1}", "true}"), "got True"),
        (CHOICE.replace("1}", '"c"}'), "got 'c'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text(f"{CHOICE}\n{line}\n")
    with pytest.raises(DataError, match=words) as raised:
        read_questions(file)
    assert str(file) in str(raised.value)


def test_files_that_are_no_questions(tmp_path: Path) -> None:
    text = tmp_path / "t.jsonl"
    text.write_text('{"text": "hello"}\n')
    assert not is_item_file(str(text))
    empty = tmp_path / "e.jsonl"
    empty.write_text("\n")
    assert not is_item_file(str(empty))
    with pytest.raises(DataError, match="no question in it"):
        read_questions(empty)
    with pytest.raises(DataError, match="no such file"):
        read_questions(tmp_path / "none.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        read_questions(tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("answer", "written", "right"),
    [
        ("-5", "5", False), ("-5", "-5.", True), ("1.5", "15", False), ("1.5", "1.5", True),
        ("C++", "C", False), ("C++", "c++.", True), ("C#", "C", False), ("50%", "50", False),
        ("1/2", "12", False), ("10:30", "1030", False), (".NET", "net", False),
        ("5!", "5", False), ("Yes", "yes!", True), ("1,000", "1000", True), ("1,5", "15", False),
        ("Paris", "paris.", True), ("Paris", '"Paris."', True), ("Paris", "(paris)", True),
        ("red, green", "Red green", True), ("U.S.", "US", True), ("x^2", "x2", False),
        ("$5", "5", False), ("2-3", "23", False), ("a_b", "ab", False), ("A*", "A", False),
    ],
)  # fmt: skip
def test_own_answers_are_compared_with_what_carries_meaning(
    tmp_path: Path, answer: str, written: str, right: bool
) -> None:
    """Through lm-eval itself, which applies the patterns that the task file tells."""
    from paredown.evaluate.task_data import own_yaml
    from paredown.evaluate.tasks import _from_folder

    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"question": "q", "answer": answer}) + "\n")
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "own.yaml").write_text(own_yaml(read_questions(file), "own"), encoding="utf-8")
    task = _from_folder("own", folder, ["own"])["own"]
    score = task.process_results(task.eval_docs[0], [written])["exact_match"]
    assert bool(score) is right
