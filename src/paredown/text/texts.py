"""Text sources, and their calibration and evaluation parts, which never overlap.

Names: `pydoc` (the Python reference that every Python ships), `self` (text the model writes),
`wikitext2`, `c4` (calibration only), a benchmark (its training part, calibration only), or a local
.txt/.jsonl file or folder. A source that comes with its own splits keeps them; any other is split
by document, by a hash of its content, so that the same document can never land on both sides.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from paredown.errors import DataError, did_you_mean
from paredown.spec.benchmarks import BENCHMARKS, is_benchmark, is_item_file
from paredown.spec.reading import json_rows, read_text
from paredown.spec.serial import content_hash
from paredown.text.solved import training_texts

Part = Literal["calibration", "evaluation"]
_EVALUATION_SHARE = 4
"""One document in this many is for evaluation."""
_HELD_OUT = re.compile(r"(^|[^a-z])(test|valid|validation|val|eval|heldout|held_out)([^a-z]|$)")
_HELD_OUT_FOLDERS = {"test", "valid", "validation", "val", "eval", "heldout", "held_out"}
IMAGE_TEXTS = "texts.jsonl"
"""In a folder of images: what is asked and answered about each."""
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")
_LONG_PASSAGE = 200
"""Characters of a passage that no chance repeats."""
_TEXT_FIELDS = ("text", "page", "content")


@dataclass(frozen=True)
class TextSource:
    """A named source of text.

    Attributes:
        name: as the user wrote it.
        documents: part -> its documents, in a fixed order.
        generated: the text is not given but written by the model itself.
        protocol: how the parts came about, in words.
    """

    name: str
    documents: Callable[[Part], list[str]]
    protocol: str
    generated: bool = False

    def content(self, part: Part) -> str:
        """Hash of a part's documents; a word for text that the model writes, who tells it."""
        return "generated" if self.generated else content_hash(self.documents(part), length=32)


def open_source(name: str, *, data_dir: Path | None = None) -> TextSource:
    """The text source called `name`; nothing is read yet beyond what shows that it is there.

    Raises:
        DataError: there is no such source.
    """
    if name.endswith(":train"):  # what `check_calibration` accepts, and what is taken anyway
        name = name.removesuffix(":train")
    if name == "pydoc":
        return TextSource(name, _pydoc, "topics of the Python reference, split by hash")
    if name == "self":
        return TextSource(
            name, _no_documents, "written by the model, other seeds per part", generated=True
        )
    if name in _NAMED:
        return _named(name, data_folder(data_dir))
    if is_benchmark(name) and not is_item_file(name):
        return _of_benchmark(name, data_folder(data_dir))
    path = Path(name).expanduser()
    if path.exists():
        files = _text_files(path)
        return TextSource(
            name, lambda part: _split(_read_files(files), part), "documents split by hash"
        )
    if path.suffix in {".txt", ".jsonl", ".raw"} or "/" in name:
        raise DataError(f"no text at {name!r}: there is no such file or folder")
    near = did_you_mean(name, ["pydoc", "self", *_NAMED, *BENCHMARKS])
    raise DataError(f"no text source is called {name!r}; {near} or give a .txt or .jsonl file")


def check_calibration(name: str, evaluation: str) -> None:
    """Refuse a calibration source that is, or may be, evaluation text.

    Raises:
        DataError: a test or validation split, by its name.
    """
    path = Path(name)
    if _HELD_OUT.search(path.name.lower()) or path.parent.name.lower() in _HELD_OUT_FOLDERS:
        raise DataError(
            f"calibration on {name!r}: this looks like a test or validation split, which would "
            "spoil the evaluation; use a training split (a file named otherwise is accepted)"
        )
    if _named_split(name) not in (None, "train"):
        raise DataError(f"calibration on {name!r}: only the train split may be used")


def check_images(name: str) -> None:
    """Refuse, before any weight is loaded, a folder of images that cannot or must not be used.

    Raises:
        DataError: missing, without texts, or by its name of a test or validation split.
    """
    check_calibration(name, evaluation="")
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise DataError(f"no folder of images at {name!r}")
    if not (folder / IMAGE_TEXTS).is_file():
        raise DataError(
            f'{name}: holds no {IMAGE_TEXTS}; write one line {{"image": "a.jpg", "question": '
            '"...", "answer": "..."} for each image'
        )


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Both sides of a text, with nothing in common.

    Attributes:
        calibration: its documents.
        evaluation: its documents.
        dropped: passages that stood on both sides, and were taken out of `calibration`.
    """

    calibration: list[str]
    evaluation: list[str]
    dropped: int

    def of(self, part: Part) -> list[str]:
        """The documents of one side."""
        return self.evaluation if part == "evaluation" else self.calibration


def parts(evaluation: TextSource, calibration: TextSource | None) -> Parts:
    """Calibration and evaluation documents, with nothing in common.

    Real texts repeat themselves: licences, headings, quotations. What is repeated leaves the
    calibration side, so that the evaluation is the same whatever is calibrated on.

    Raises:
        DataError: either side is missing, or nothing of the calibration text stands there alone.
    """
    held_out = evaluation.documents("evaluation")
    training = (calibration or evaluation).documents("calibration")
    forbidden = {passage for text in held_out for passage in _passages(text)}
    kept, dropped = [], 0
    for text in training:
        rest, count = _without(text, forbidden)
        dropped += count
        if rest.strip():
            kept.append(rest)
    if not kept:
        raise DataError(
            f"calibration on {(calibration or evaluation).name!r}: all of it stands in the "
            "evaluation text; choose another calibration text"
        )
    return Parts(calibration=kept, evaluation=held_out, dropped=dropped)


def texts_content(
    evaluation: str, calibration: str | None, *, data_dir: Path | None
) -> dict[str, str]:
    """Hash of the documents of each part: what a text is, whatever it is called.

    Calibration leaves out what stands in the evaluation text, so it depends on both.

    Raises:
        DataError: there is no such text.
    """
    held_out = open_source(evaluation, data_dir=data_dir)
    training = held_out if calibration is None else open_source(calibration, data_dir=data_dir)
    return {
        "calibration": training.content("calibration"),
        "evaluation": held_out.content("evaluation"),
    }


def _passages(text: str) -> list[str]:
    """Lines and paragraphs long enough that chance cannot repeat them, blanks normalised."""
    # Paragraphs as well: where lines are wrapped at 80 characters, none of them is long enough.
    whole = (" ".join(part.split()) for part in (*text.splitlines(), *_PARAGRAPH.split(text)))
    return [passage for passage in whole if len(passage) >= _LONG_PASSAGE]


def _without(text: str, forbidden: set[str]) -> tuple[str, int]:
    """The text without its lines and paragraphs that are forbidden passages, and how many."""
    if forbidden.isdisjoint(_passages(text)):
        return text, 0  # as it was written, blank lines and all
    kept, dropped = [], 0
    for paragraph in _PARAGRAPH.split(text):
        if " ".join(paragraph.split()) in forbidden:
            dropped += 1
            continue
        lines = paragraph.splitlines()
        # The rest of it is nobody's but its own: a footer must not take the page with it.
        left = [line for line in lines if " ".join(line.split()) not in forbidden]
        dropped += len(lines) - len(left)
        if left:
            kept.append("\n".join(left))
    return "\n\n".join(kept), dropped


def _split(documents: list[str], part: Part) -> list[str]:
    """Documents of a part, by a hash of their content; a lone document is cut in two."""
    unique = list(dict.fromkeys(documents))
    if len(unique) < 2 * _EVALUATION_SHARE:
        unique = [chunk for text in unique for chunk in _paragraphs(text)]
    wanted = part == "evaluation"
    chosen = [text for text in unique if _is_held_out(text) == wanted]
    if not chosen:
        raise DataError(
            f"the text has only {len(unique)} paragraphs: too little to hold some out; give more"
        )
    return chosen


def _paragraphs(text: str, least: int = 1000) -> list[str]:
    """Consecutive paragraphs joined to pieces of at least `least` characters.

    Blank lines stay, because they tell where a repeated paragraph ends; for its sake only a
    paragraph that is long itself is cut, between two of its lines.
    """
    pieces: list[str] = []
    current = ""
    for paragraph in _with_ends(r"\n\s*\n", text):
        lines = _with_ends(r"\n(?=\S)", paragraph) if len(paragraph) > 2 * least else [paragraph]
        for part in lines:
            current += part
            if len(current) >= least:
                pieces.append(current)
                current = ""
    return [*pieces, current] if current.strip() else pieces


def _with_ends(separator: str, text: str) -> list[str]:
    """The parts of a text between separators, each with the one behind it."""
    parts = re.split(f"({separator})", text)
    return [part + end for part, end in zip(parts[::2], [*parts[1::2], ""], strict=True)]


def _is_held_out(text: str) -> bool:
    digest = hashlib.sha256(" ".join(text.split()).encode()).digest()
    return digest[0] % _EVALUATION_SHARE == 0


def _pydoc(part: Part) -> list[str]:
    from pydoc_data.topics import topics

    by_name = [topics[key] for key in sorted(topics)]
    # Some topics quote others; a topic that shares a passage with held-out text is dropped.
    held_out = [t for t in dict.fromkeys(by_name) if _is_held_out(t)]
    if part == "evaluation":
        return held_out
    forbidden = _long_lines(held_out)
    return [
        t
        for t in dict.fromkeys(by_name)
        if not _is_held_out(t) and not _long_lines([t]) & forbidden
    ]


def _long_lines(documents: list[str]) -> set[str]:
    lines = (" ".join(line.split()) for text in documents for line in text.splitlines())
    return {line for line in lines if len(line) >= 60}


def _no_documents(part: Part) -> list[str]:
    raise AssertionError("generated text has no documents; it is sampled from the model")


def _text_files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in {".txt", ".jsonl", ".raw", ".md"}:
            raise DataError(f"{path}: use .txt, .md, .raw or .jsonl")
        return [path]
    files = sorted(f for f in path.rglob("*") if f.suffix in {".txt", ".jsonl", ".raw", ".md"})
    if not files:
        raise DataError(f"{path}: the folder holds no .txt, .md, .raw or .jsonl file")
    return files


def _read_files(files: list[Path]) -> list[str]:
    documents = [text for file in files for text in _read_file(file)]
    if not any(text.strip() for text in documents):
        raise DataError(f"{files[0]}: there is no text in it")
    return documents


def _read_file(file: Path) -> list[str]:
    content = read_text(file, error=DataError)
    if file.suffix != ".jsonl":
        return [content]
    documents = []
    for number, row in json_rows(content, where=str(file), error=DataError):
        field = next((f for f in _TEXT_FIELDS if isinstance(row, dict) and f in row), None)
        if field is None or not isinstance(row[field], str):
            raise DataError(f'{file}, line {number}: needs a field "text" that holds a string')
        documents.append(row[field])
    return documents


_NAMED: dict[str, dict[Part, str]] = {
    "wikitext2": {
        "calibration": "wikitext/document_level/train.part.jsonl",
        "evaluation": "wikitext/wiki.test.raw",
    },
    "c4": {"calibration": "calibration/c4_en_300.jsonl"},
}
_HUB: dict[str, tuple[str, str, dict[Part, str]]] = {
    "wikitext2": (
        "Salesforce/wikitext",
        "wikitext-2-raw-v1",
        {
            "calibration": "train-00000-of-00001.parquet",
            "evaluation": "test-00000-of-00001.parquet",
        },
    ),
}


def _named_split(name: str) -> str | None:
    _, colon, split = name.partition(":")
    return split if colon else None


def data_folder(given: Path | None) -> Path | None:
    """The folder of local data sets: the one that is given, else PAREDOWN_DATA's, if any."""
    chosen = os.environ.get("PAREDOWN_DATA")
    return given or (Path(chosen).expanduser() if chosen else None)


def _named(name: str, data_dir: Path | None) -> TextSource:
    def documents(part: Part) -> list[str]:
        files = _NAMED[name]
        if part not in files:
            raise DataError(f"{name} has no {part} part; use it for calibration only")
        if data_dir is not None:
            path = data_dir / files[part]
            if not path.exists():
                raise DataError(f"{name}: {path} is not there; check --data-dir / PAREDOWN_DATA")
            return _read_file(path)
        return _from_hub(name, part)

    return TextSource(name, documents, f"the {name} splits: train to calibrate, test to evaluate")


def _of_benchmark(name: str, data_dir: Path | None) -> TextSource:
    """The solved items of a benchmark's training part, a document each."""

    def documents(part: Part) -> list[str]:
        if part != "calibration":
            raise DataError(f"{name}: its items are for calibration only; score on it with -d")
        return training_texts(name, data_dir)

    return TextSource(name, documents, f"the training part of {name}, questions with their answers")


def _from_hub(name: str, part: Part) -> list[str]:
    if name not in _HUB:
        raise DataError(f"{name} needs a local copy: set --data-dir or PAREDOWN_DATA")
    repo, config, files = _HUB[name]
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = hf_hub_download(repo, f"{config}/{files[part]}", repo_type="dataset")
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
        raise DataError(
            f"{name} is neither in a local data folder (--data-dir, PAREDOWN_DATA) nor can the "
            "hub be reached"
        ) from None
    try:
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{name} from the hub needs pyarrow: pip install pyarrow") from None
    rows: list[str] = parquet.read_table(path).column("text").to_pylist()
    return ["\n\n".join(rows)]
