"""Text: both parts disjoint by construction, and clear words where text is missing or wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paredown.errors import DataError
from paredown.text.texts import TextSource, check_calibration, open_source, parts


def documents(count: int, *, salt: str = "") -> list[str]:
    return [f"Document {salt}{i} says {i * 7919 % 1009}.\n\nAnd {i} more.\n" for i in range(count)]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return path


def both(source: TextSource) -> tuple[set[str], set[str]]:
    return set(source.documents("calibration")), set(source.documents("evaluation"))


def test_pydoc_parts_share_no_topic_and_no_long_line() -> None:
    source = open_source("pydoc")
    found = parts(source, None)
    training, held_out = found.calibration, found.evaluation
    assert not set(training) & set(held_out)
    lines = [{ln.strip() for t in part for ln in t.splitlines() if len(ln.strip()) >= 60}
             for part in (training, held_out)]  # fmt: skip
    assert not lines[0] & lines[1]
    assert sum(map(len, held_out)) > 40_000
    assert sum(map(len, training)) > 200_000


def test_a_file_of_documents_is_split_without_rest(tmp_path: Path) -> None:
    texts = documents(200)
    training, held_out = both(open_source(str(write_jsonl(tmp_path / "a.jsonl", texts))))
    assert training | held_out == set(texts)
    assert not training & held_out
    assert 25 < len(held_out) < 75  # one in four


def test_the_side_of_a_document_depends_on_its_words_alone(tmp_path: Path) -> None:
    texts = documents(40)
    spaced = [t.replace(" ", "  ").replace("\n", "\n\n") for t in reversed(texts)]
    one = open_source(str(write_jsonl(tmp_path / "a.jsonl", texts)))
    two = open_source(str(write_jsonl(tmp_path / "b.jsonl", spaced)))
    words = [{" ".join(t.split()) for t in s.documents("evaluation")} for s in (one, two)]
    assert words[0] == words[1]
    parts(one, two)  # so that they can be used together


def test_a_document_given_twice_counts_once(tmp_path: Path) -> None:
    texts = documents(20)
    source = open_source(str(write_jsonl(tmp_path / "a.jsonl", [*texts, *texts])))
    assert len(source.documents("calibration")) + len(source.documents("evaluation")) == 20


def test_files_of_a_folder_are_documents_in_a_fixed_order(tmp_path: Path) -> None:
    texts = documents(12)
    for i, text in enumerate(texts):
        suffix = (".txt", ".md", ".raw")[i % 3]
        path = tmp_path / f"sub{i % 2}" / f"{i:02d}{suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "picture.png").write_bytes(b"\xff")
    source = open_source(str(tmp_path))
    training, held_out = both(source)
    assert training | held_out == set(texts)
    assert source.documents("evaluation") == open_source(str(tmp_path)).documents("evaluation")


def test_a_single_document_is_cut_into_pieces(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(f"Paragraph {i}: " + f"word{i} " * 60 for i in range(200)))
    found = parts(open_source(str(path)), None)
    training, held_out = found.calibration, found.evaluation
    text = path.read_text().split()
    assert sorted(" ".join(training + held_out).split()) == sorted(text)
    assert len(held_out) >= 5
    assert all(len(t) >= 1000 for t in held_out[:-1])


def test_a_text_too_short_to_hold_some_out(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("One line only.")
    source = open_source(str(path))
    with pytest.raises(DataError, match="only 1 paragraphs: too little to hold some out"):
        parts(source, None)


def test_what_stands_on_both_sides_leaves_calibration(tmp_path: Path) -> None:
    passage = "This very sentence stands on both sides. " * 6
    texts = [f"{t}\n\n{passage}\n" for t in documents(40)]
    evaluation = open_source(str(write_jsonl(tmp_path / "a.jsonl", texts)))
    other = [f"{t}\n\n  {passage}\n" for t in documents(40, salt="x")]
    calibration = open_source(str(write_jsonl(tmp_path / "b.jsonl", other)))
    found = parts(evaluation, calibration)
    assert found.dropped == len(found.calibration) == len(calibration.documents("calibration"))
    assert not any("very sentence" in text for text in found.calibration)
    assert all("Document x" in text for text in found.calibration)  # the rest of each is kept
    assert found.evaluation == evaluation.documents("evaluation")  # untouched, passage and all


def test_a_paragraph_of_short_lines_is_a_passage_too(tmp_path: Path) -> None:
    lines = "\n".join(f"line {i} of a licence that is everywhere" for i in range(8))
    texts = [f"{t}\n\n{lines}\n" for t in documents(40)]
    source = open_source(str(write_jsonl(tmp_path / "a.jsonl", texts)))
    assert not any("licence" in text for text in parts(source, None).calibration)


def test_a_text_that_repeats_nothing_else_is_refused(tmp_path: Path) -> None:
    passage = "Nothing but this sentence, over and over. " * 6
    source = open_source(str(write_jsonl(tmp_path / "a.jsonl", [passage] * 3 + documents(40))))
    copy = TextSource("copy", lambda part: source.documents("evaluation"), "")
    held = TextSource("held", lambda part: [passage], "")
    with pytest.raises(DataError, match="calibration on 'held': all of it stands in the eval"):
        parts(held, None)
    assert parts(copy, source).dropped == 0  # short documents are nobody's


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 3: no JSON"),
        ('{"words": "x"}', 'line 3: needs a field "text"'),
        ('{"text": 5}', 'line 3: needs a field "text" that holds a string'),
        ('["text"]', "line 3: needs a field"),
    ],
)
def test_a_bad_line_is_named_by_number(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        open_source(str(path)).documents("evaluation")


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc\xff\xfe")
    with pytest.raises(DataError, match=r"not UTF-8 text .* at byte 3"):
        open_source(str(tmp_path / "a.txt")).documents("evaluation")
    (tmp_path / "b.csv").write_text("x")
    with pytest.raises(DataError, match=r"use \.txt, \.md, \.raw or \.jsonl"):
        open_source(str(tmp_path / "b.csv"))
    (tmp_path / "c.txt").write_text(" \n ")
    with pytest.raises(DataError, match="there is no text in it"):
        open_source(str(tmp_path / "c.txt")).documents("evaluation")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="the folder holds no"):
        open_source(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wikitext3", "did you mean 'wikitext2'"),
        ("pydocs", "did you mean 'pydoc'"),
        ("no/such/folder", "there is no such file or folder"),
        ("missing.txt", "there is no such file or folder"),
    ],
)
def test_an_unknown_name(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(name)


@pytest.mark.parametrize(
    "name",
    [
        "wiki.test.raw", "data/validation.jsonl", "my_eval.txt", "val-00000.jsonl", "TEST.txt",
        "wikitext2:test", "wikitext2:validation", "wikitext2:all", "data/test/part0.jsonl",
        "held_out.txt",
    ],
)  # fmt: skip
def test_held_out_splits_are_no_calibration_text(name: str) -> None:
    with pytest.raises(DataError, match="calibration on"):
        check_calibration(name, "pydoc")


@pytest.mark.parametrize(
    "name", ["train.jsonl", "contest.txt", "latest.txt", "medieval.txt", "pydoc", "wikitext2:train"]
)
def test_other_names_are_accepted(name: str) -> None:
    check_calibration(name, "pydoc")


def test_named_sets_keep_their_own_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    (folder / "wikitext" / "document_level").mkdir(parents=True)
    write_jsonl(folder / "wikitext" / "document_level" / "train.part.jsonl", ["for training"])
    (folder / "wikitext" / "wiki.test.raw").write_text("for testing")
    found = parts(open_source("wikitext2", data_dir=folder), None)
    assert (found.calibration, found.evaluation) == (["for training"], ["for testing"])
    monkeypatch.setenv("PAREDOWN_DATA", str(folder))
    assert open_source("wikitext2").documents("evaluation") == ["for testing"]
    with pytest.raises(DataError, match="c4 has no evaluation part"):
        open_source("c4").documents("evaluation")
    with pytest.raises(DataError, match="is not there; check --data-dir"):
        open_source("c4").documents("calibration")


def test_named_sets_without_data_and_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="neither in a local data folder"):
        open_source("wikitext2").documents("evaluation")
    with pytest.raises(DataError, match="c4 needs a local copy"):
        open_source("c4").documents("calibration")


def test_rows_end_at_newlines_only_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    rows = ['{"text": "one\u2028line\u0085only"}', '{"text": "two"}']
    file.write_bytes(b"\xef\xbb\xbf" + "\n".join(rows).encode() + b"\n")
    source = open_source(str(file))
    # A short text is cut into paragraphs, which end with a line feed.
    found = [*source.documents("calibration"), *source.documents("evaluation")]
    assert {text.strip("\n") for text in found} == {"one\u2028line\u0085only", "two"}


def test_a_line_that_every_section_of_a_file_repeats_takes_no_section_with_it(
    tmp_path: Path,
) -> None:
    """One Markdown file, as people have them: a notice below each heading, word for word."""
    notice = "This notice stands in every section, word for word, " * 5
    wrapped = "\n".join(["It is wrapped at eighty columns, and no line of it is long."] * 4)
    sections = [f"## Part {i}\n\nOnly here: {i * 7919}.\n{notice}\n\n{wrapped}\n\n" + f"w{i} " * 90
                for i in range(60)]  # fmt: skip
    file = tmp_path / "notes.md"
    file.write_text("\n\n".join(sections))
    found = parts(open_source(str(file)), None)
    training, held_out = "\n".join(found.calibration), "\n".join(found.evaluation)
    assert notice.strip() in held_out
    assert wrapped in held_out
    assert notice.strip() not in training
    assert wrapped not in training
    assert found.dropped >= 2 * len(found.calibration)
    # Everything else of the file is on one of the two sides, and on one only.
    for i in range(60):
        for own in (f"Only here: {i * 7919}.", f"w{i} w{i}"):
            assert (own in training) != (own in held_out)
