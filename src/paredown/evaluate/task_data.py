"""Which rows a benchmark reads: the hub's, or files in a local folder, with lm-eval's prompts."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paredown.errors import DataError, MissingExtraError
from paredown.evaluate.code import load_problems
from paredown.evaluate.sandbox.detect import open_sandbox
from paredown.evaluate.task_names import check_task
from paredown.evaluate.userdata import Questions, read_questions
from paredown.spec.benchmarks import BENCHMARKS, HUMANEVAL, LM_EVAL, Benchmark, expand, is_item_file
from paredown.spec.reading import json_rows, read_text
from paredown.spec.run import EvaluateConfig
from paredown.text.texts import data_folder

_PREFIX = {"bbh": "bbh_cot_fewshot_", "mmlu": ""}
"""What lm-eval puts before the stem of a task file where the two differ."""
_SINGLE = {"commonsense_qa": "commonsense_qa", "winogrande": "winogrande"}
"""Task names of files that are called `default.yaml`."""
_HUMANEVAL = "humaneval/test.jsonl"
_HUB = "the hub"
_QUOTES = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"
_EDGES = rf"^[\s{_QUOTES}(\[{{]+|[\s{_QUOTES})\]}}.,;:]+$"
_UNSAID = (
    _EDGES,  # quotes, brackets and full stops around an answer
    r"(?<=[^\W\d])[!?]+$",  # behind a word; 5! is another number
    _EDGES,  # and what stood within those
    r"[.,;:]+(?=\s)",  # at the end of an inner word; 1.5, 10:30 and .NET stay
    r"(?<=\d),(?=\d{3}\b)",  # 1,000
    r"(?<=\b[^\W\d])\.(?=[^\W\d]\b)",  # U.S.A
)
"""What is left out of both texts before they are compared: punctuation that says nothing. Signs,
points and the like inside a word are part of it: -5 is not 5, 1.5 not 15, C++ not C."""
_MEAN = {"aggregation": "mean", "higher_is_better": True}


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """One task for lm-eval: one of its own files, with other rows if `rows` is given.

    Attributes:
        task: lm-eval's name.
        include: its task file.
        rows: split -> local file; empty means the hub.
    """

    task: str
    include: Path
    rows: Mapping[str, Path] = field(default_factory=dict)

    def yaml(self) -> str:
        """The text of a task file."""
        lines = [f"include: {json.dumps(str(self.include))}", f"task: {self.task}", "tag: null"]
        if self.rows:
            files = {split: str(path) for split, path in self.rows.items()}
            lines += [
                f"custom_dataset: !function {__name__}.{read_rows.__name__}",
                f"dataset_kwargs: {json.dumps({'files': files})}",
            ]
        return "\n".join(lines) + "\n"


def own_yaml(questions: Questions, task: str) -> str:
    """The text of a task file for a user's questions, asked as ARC asks its own."""
    config: dict[str, Any] = {
        "task": task,
        "dataset_kwargs": {"file": str(questions.path)},
        "test_split": "test",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "answer",
    }
    if questions.kind == "choice":
        config |= {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "metric_list": [{"metric": m, **_MEAN} for m in ("acc", "acc_norm")],
        }
    else:
        folded = {"ignore_case": True, "regexes_to_ignore": [*_UNSAID]}
        strip = [{"function": "remove_whitespace"}, {"function": "take_first"}]
        config |= {
            "output_type": "generate_until",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 64, "do_sample": False},
            "filter_list": [{"name": "none", "filter": strip}],
            "metric_list": [{"metric": "exact_match", **_MEAN, **folded}],
        }
    lines = [f"{key}: {json.dumps(value)}" for key, value in config.items()]
    lines.append(f"custom_dataset: !function {__name__}.{read_own.__name__}")
    return "\n".join(lines) + "\n"


def read_own(file: str, **_: Any) -> dict[str, Any]:
    """A user's questions as a data set; lm-eval calls this, with its metadata."""
    from datasets import Dataset

    return {"test": Dataset.from_list(list(read_questions(Path(file)).rows))}


def read_rows(files: Mapping[str, str], **_: Any) -> dict[str, Any]:
    """Splits of JSON Lines files as data sets, in memory; lm-eval calls this, with its metadata."""
    from datasets import Dataset

    return {split: Dataset.from_list(_read(Path(path))) for split, path in files.items()}


def _read(path: Path) -> list[dict[str, Any]]:
    text = read_text(path, error=DataError)
    return [row for _, row in json_rows(text, where=str(path), error=DataError)]


def check_benchmarks(config: EvaluateConfig, data_dir: Path | None) -> None:
    """See that every benchmark can be run, before anything is loaded.

    Raises:
        MissingExtraError: lm-eval is not installed.
        DataError: lm-eval has no such task, local rows are asked for and not there, or a user's
            file is malformed.
        ConfigError: model-written code is to run, and no sandbox works here.
    """
    names = expand(config.benchmarks)
    if names:
        lm_eval_tasks()
    for name in names:
        if name == HUMANEVAL:
            load_problems(humaneval_folder(data_dir))
            open_sandbox(allow_unsandboxed=config.allow_unsandboxed_code)
        elif is_item_file(name):
            read_questions(Path(name).expanduser())
        elif name in BENCHMARKS:
            task_files(BENCHMARKS[name], data_dir)
        elif name.startswith(LM_EVAL):
            check_task(name, lm_eval_tasks())


def humaneval_folder(data_dir: Path | None) -> Path:
    """Where HumanEval lies.

    Raises:
        DataError: no folder was given.
    """
    folder = data_folder(data_dir)
    if folder is None:
        raise DataError("humaneval needs a local copy: set --data-dir or PAREDOWN_DATA")
    return folder


def lm_eval_tasks() -> Path:
    """lm-eval's folder of tasks; it is found, not imported, which would take seconds.

    Raises:
        MissingExtraError: it is not installed.
    """
    found = importlib.util.find_spec("lm_eval")
    if found is None or found.origin is None:
        raise MissingExtraError("scoring on benchmarks", "lm-eval", "tasks")
    return Path(found.origin).parent / "tasks"


def task_files(benchmark: Benchmark, data_dir: Path | None) -> list[TaskFile]:
    """lm-eval's tasks behind a benchmark, one per subject.

    Raises:
        DataError: a local folder is given, and rows are not in it.
    """
    folder = data_folder(data_dir)
    found = sorted(lm_eval_tasks().glob(benchmark.files))
    return [
        TaskFile(task=_task_name(path), include=path, rows=_local(benchmark, path, folder))
        for path in found
        if not path.name.startswith("_")
    ]


def _task_name(path: Path) -> str:
    if path.stem == "default":
        return _SINGLE[path.parent.name]
    group = path.parents[1].name
    return _PREFIX.get(group, "") + path.stem


def _local(benchmark: Benchmark, path: Path, folder: Path | None) -> dict[str, Path]:
    if folder is None:
        return {}
    subject = path.stem.removeprefix("mmlu_")
    files = {split: folder / name.replace("*", subject) for split, name in benchmark.rows.items()}
    for file in files.values():
        if not file.is_file():
            raise DataError(
                f"{benchmark.name}: {file} is not there; check --data-dir / PAREDOWN_DATA, or "
                "leave it out to read from the hub"
            )
    return files


def describe_rows(name: str, data_dir: Path | None) -> str:
    """Where a benchmark's rows come from, in words; local ones with a hash."""
    if not _local_files(name, data_dir):
        return _HUB
    where = data_folder(data_dir) if name == HUMANEVAL or name in BENCHMARKS else Path(name)
    return f"{where}, sha256 {rows_hash(name, data_dir)[:12]}"


def rows_hash(name: str, data_dir: Path | None) -> str:
    """SHA-256 over the files that hold a benchmark's rows, wherever they lie.

    Rows of the hub are told by the versions of the tasks that read them: lm-eval pins what it
    reads, and each item is compared by the hash of its row besides.
    """
    paths = _local_files(name, data_dir)
    if not paths:
        return f"{_HUB}, lm-eval {importlib.metadata.version('lm-eval')}"
    content = b"".join(path.expanduser().read_bytes() for path in paths)
    return hashlib.sha256(content).hexdigest()


def _local_files(name: str, data_dir: Path | None) -> list[Path]:
    """Local files with a benchmark's rows; none where they are read from the hub."""
    if name == HUMANEVAL:
        return [humaneval_folder(data_dir) / _HUMANEVAL]
    if name in BENCHMARKS:
        files = task_files(BENCHMARKS[name], data_dir)
        return sorted({path for file in files for path in file.rows.values()})
    return [] if name.startswith(LM_EVAL) else [Path(name)]
