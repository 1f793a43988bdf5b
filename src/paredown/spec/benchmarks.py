"""The benchmarks that are known by name, and how a request for data is read.

The prompts and metrics are lm-eval's own: the table only says which of its task files a name
means, which of its metrics is the score, and where rows lie that were fetched beforehand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paredown.errors import DataError, did_you_mean

LM_EVAL = "lm-eval:"
"""Prefix of any other task of lm-eval."""
HUMANEVAL = "humaneval"
TEXTS = ("pydoc", "self", "wikitext2", "c4")
"""Names of texts, on which perplexity is measured."""
DEFAULT_TEXT = "pydoc"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One score.

    Attributes:
        name: as the user writes it.
        files: lm-eval's task files, below its folder of tasks; `*` stands for all subjects.
        metric: of lm-eval, the one that is the score.
        filter: of lm-eval, where a metric is computed on several extractions of the answer.
        chance: score of guessing; None where it depends on the items.
        few_shot: solved examples in the prompt: lm-eval's default.
        rows: split -> file of offline rows; `*` as in `files`.
        higher_is_better: false for an error rate.
    """

    name: str
    files: str
    metric: str
    filter: str = "none"
    chance: float | None
    few_shot: int = 0
    rows: Mapping[str, str] = field(default_factory=dict)
    higher_is_better: bool = True


def _arc(name: str) -> Benchmark:
    splits = ("train", "validation", "test")
    return Benchmark(
        name=name,
        files=f"arc/{name}.yaml",
        metric="acc_norm",
        chance=0.25,
        rows={split: f"{name}/{split}.jsonl" for split in splits},
    )


def _truthfulqa(name: str, chance: float | None) -> Benchmark:
    return Benchmark(
        name=name,
        files=f"truthfulqa/{name}.yaml",
        metric="acc",
        chance=chance,
        rows={"validation": "truthfulqa/validation.jsonl"},
    )


_TABLE = (
    Benchmark(
        name="gsm8k", files="gsm8k/gsm8k.yaml", metric="exact_match", filter="strict-match",
        chance=0.0, few_shot=5, rows={"train": "gsm8k/train.jsonl", "test": "gsm8k/test.jsonl"},
    ),
    Benchmark(
        name="commonsenseqa", files="commonsense_qa/default.yaml", metric="acc", chance=0.2,
        rows={split: f"commonsense_qa/{split}.jsonl" for split in ("train", "validation")},
    ),
    _truthfulqa("truthfulqa_mc1", 0.226),
    _truthfulqa("truthfulqa_mc2", None),
    Benchmark(
        name="bigbench_hard", files="bbh/cot_fewshot/*.yaml", metric="exact_match",
        filter="get-answer", chance=None, few_shot=3, rows={"test": "bbh/test/*.jsonl"},
    ),
    Benchmark(
        name="mmlu", files="mmlu/default/mmlu_*.yaml", metric="acc", chance=0.25,
        rows={split: f"mmlu/{split}/*.jsonl" for split in ("dev", "test")},
    ),
    Benchmark(
        name="hellaswag", files="hellaswag/hellaswag.yaml", metric="acc_norm", chance=0.25,
        rows={"train": "hellaswag/fewshot.jsonl", "validation": "hellaswag/validation.jsonl"},
    ),
    _arc("arc_easy"),
    _arc("arc_challenge"),
    Benchmark(
        name="winogrande", files="winogrande/default.yaml", metric="acc", chance=0.5,
        rows={split: f"winogrande/{split}.jsonl" for split in ("train", "validation")},
    ),
)  # fmt: skip
BENCHMARKS: Mapping[str, Benchmark] = {b.name: b for b in _TABLE}
_SETS: Mapping[str, tuple[str, ...]] = {"truthfulqa": ("truthfulqa_mc1", "truthfulqa_mc2")}
NAMES = (*BENCHMARKS, *_SETS, HUMANEVAL)
"""Every name that a user may write, besides `lm-eval:NAME` and files."""


def split_request(wanted: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """What `-d` names: the text for perplexity and KL, and the benchmarks.

    Without a text it is `pydoc`. A set of benchmarks becomes its members. What is not known is
    taken for a text: whether there is such a one, `check_text_name` and `open_source` tell.

    Raises:
        DataError: two texts.
    """
    texts: list[str] = []
    benchmarks: dict[str, None] = {}
    for name in wanted:
        if name in _SETS:
            benchmarks |= dict.fromkeys(_SETS[name])
        elif is_benchmark(name):
            benchmarks[name] = None
        else:
            texts.append(name)
    if len(set(texts)) > 1:
        raise DataError(
            f"{' and '.join(map(repr, dict.fromkeys(texts)))} are both texts; measure on one, "
            "beside any number of benchmarks"
        )
    return (texts or [DEFAULT_TEXT])[0], tuple(benchmarks)


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """Names of benchmarks, sets replaced by their members, each once.

    Raises:
        DataError: a name that is no benchmark; the nearest are told.
    """
    for name in names:
        if name not in _SETS and not is_benchmark(name):
            check_text_name(name)
            raise DataError(f"{name!r} is no benchmark; {did_you_mean(name, NAMES)}")
    return split_request(names)[1]


def is_benchmark(name: str) -> bool:
    """Whether a name means items with answers, rather than a text."""
    known = name in BENCHMARKS or name == HUMANEVAL
    return known or (name.startswith(LM_EVAL) and len(name) > len(LM_EVAL)) or is_item_file(name)


def is_item_file(name: str) -> bool:
    """Whether `name` is a JSON Lines file whose first line is a question."""
    path = Path(name).expanduser()
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    try:
        # The first line is enough, and newline="\n" keeps one with U+2028 or "\r" in it whole.
        with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
            line = next((line for line in file if line.strip()), "")
        row = json.loads(line)
    except (ValueError, RecursionError, OSError):
        return False
    return isinstance(row, dict) and "question" in row


def check_text_name(name: str) -> None:
    """Tell the nearest names of benchmarks and texts alike.

    Raises:
        DataError: neither a text's name nor a path.
    """
    if name in TEXTS or "/" in name or Path(name).suffix or Path(name).expanduser().exists():
        return
    raise DataError(
        f"no benchmark or text is called {name!r}; {did_you_mean(name, [*NAMES, *TEXTS])} "
        f"(or {LM_EVAL}NAME for another task of lm-eval, or a .txt or .jsonl file)"
    )
