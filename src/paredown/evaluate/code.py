"""HumanEval: does the code that a model writes work?

Problems, prompts and the estimator are those of Chen et al. 2021 (arXiv:2107.03374); what the
model wrote runs in `evaluate.sandbox`. It differs from the paper's harness in one way: the test
calls the function in another process, so a function must answer with plain data, and a program
cannot pass by tampering with its test. Programs have the standard library alone.
"""

from __future__ import annotations

import gzip
import textwrap
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import comb
from pathlib import Path
from typing import Any

from paredown.analysis.statistics import Estimate, mean_stderr
from paredown.errors import ConfigError, DataError, did_you_mean
from paredown.evaluate.extract import (
    code_among_prose,
    defines,
    definition,
    fenced_blocks,
    future_first,
)
from paredown.evaluate.sandbox.run import Check, Sandbox, SandboxOutcome
from paredown.spec.reading import LARGEST_BYTES, json_rows, read_bytes
from paredown.spec.result import Measurement
from paredown.spec.units import Unit

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n```")
"""Where a completion ends: the paper's (section 2.2), and the end of a fence."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One line of the data set, under its names."""

    task_id: str
    prompt: str
    """The head of a function with its docstring, and what has to stand before it."""
    entry_point: str
    """The function's name."""
    canonical_solution: str
    """The rest of the function."""
    test: str
    """Defines `check(candidate)`."""


@dataclass(frozen=True, kw_only=True)
class Solved:
    """What became of one problem's samples."""

    task_id: str
    outcomes: tuple[SandboxOutcome, ...]

    @property
    def passed(self) -> int:
        """Samples that passed."""
        return sum(outcome.passed for outcome in self.outcomes)


@dataclass(frozen=True, kw_only=True)
class Score:
    """The result of a run: per problem, and pass@k over all."""

    solved: tuple[Solved, ...]
    pass_at: dict[int, Estimate]
    """By k; the standard error is over problems."""
    how: str
    """The protocol in words, for the record."""

    def measurements(self) -> list[Measurement]:
        """`pass@k`, each a fraction of the problems."""
        return [
            Measurement(
                name=f"pass@{k}",
                value=estimate.value,
                unit=Unit.FRACTION,
                n=estimate.n,
                stderr=estimate.stderr,
                lower_is_better=False,
                source="measured",
                how=self.how,
            )
            for k, estimate in self.pass_at.items()
        ]


def load_problems(path: Path) -> list[Problem]:
    """Read HumanEval from a data folder (`humaneval/test.jsonl` in it) or a JSON Lines file.

    Args:
        path: the folder, or a file in the format of `human-eval` (`.jsonl` or `.jsonl.gz`).

    Raises:
        DataError: there is no file, or a line is not a problem; names the line.
    """
    file = path / "humaneval" / "test.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"HumanEval: {file} is not there; check --data-dir / PAREDOWN_DATA")
    try:
        read = _unpacked if file.suffix == ".gz" else read_bytes
        # A byte order mark is no part of the first line.
        text = read(file, error=DataError).decode("utf-8-sig")
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read as text ({error})") from None
    problems = [
        _problem(row, f"{file}, line {number}")
        for number, row in json_rows(text, where=str(file), error=DataError)
    ]
    if not problems:
        raise DataError(f"{file}: there is no problem in it")
    if len({p.task_id for p in problems}) < len(problems):
        raise DataError(f"{file}: a task_id stands there twice")
    return problems


def _unpacked(file: Path, *, error: type[DataError]) -> bytes:
    """The content of a gzip file, of which no more is unpacked than a plain file may have."""
    with gzip.open(file) as packed:
        content = packed.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:  # a small file may unpack to a huge one
        raise error(f"{file}: unpacks to more than {LARGEST_BYTES // 1_000_000} MB")
    return content


def _problem(row: Any, where: str) -> Problem:
    names = [field.name for field in fields(Problem)]
    missing = [n for n in names if not (isinstance(row, dict) and isinstance(row.get(n), str))]
    if missing:
        raise DataError(f"{where}: needs the fields {', '.join(missing)}, each a string")
    problem = Problem(**{name: row[name] for name in names})
    if not defines(problem.prompt, problem.entry_point):
        raise DataError(f"{where}: prompt does not define {problem.entry_point!r}, its entry_point")
    if not defines(problem.test, "check"):
        raise DataError(f"{where}: test does not define check(candidate)")
    return problem


def complete(problem: Problem, completion: str) -> str:
    """The program of a model that continued the prompt: cut where the function ends."""
    ends = [at for stop in STOPS if (at := completion.find(stop)) >= 0]
    return problem.prompt + completion[: min(ends, default=None)] + "\n"


def answer(problem: Problem, text: str) -> str:
    """The program of a model that answered in chat: the code between its fences.

    Taken is the last fenced block that defines the function (what the prompt has before the
    function is put before it), else the first block, as the function's body. Without a fence it is
    the code among the prose, or, where none defines the function, the whole answer.
    """
    blocks = fenced_blocks(text)
    whole = [b for block in blocks if defines(b := textwrap.dedent(block), problem.entry_point)]
    if not whole:
        prose = None if blocks else code_among_prose(text, problem.entry_point)
        if prose is None:
            return complete(problem, blocks[0] if blocks else text)
        whole = [prose]
    future, program = future_first(whole[-1])
    head = definition(problem.entry_point).split(problem.prompt)[0]
    return future + head + program + "\n"


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Chance that one of `k` of the `samples` passes: 1 - C(n - c, k) / C(n, k).

    Unbiased for the chance that one of k new samples does. Chen et al. 2021, eq. 1.

    Raises:
        ConfigError: not 1 <= k <= samples.
    """
    if not 1 <= k <= samples:
        raise ConfigError(f"pass@{k} needs at least {max(k, 1)} samples per problem, got {samples}")
    return 1 - comb(samples - passed, k) / comb(samples, k)


def score(
    problems: Sequence[Problem],
    completions: Mapping[str, Sequence[str]],
    sandbox: Sandbox,
    *,
    k: Sequence[int] = (1,),
    to_program: Callable[[Problem, str], str] = complete,
) -> Score:
    """Run what a model wrote for every problem.

    Args:
        problems: what was asked.
        completions: by task_id, the samples; one at least for every problem, at least max(k).
        sandbox: from `open_sandbox`.
        k: the k of pass@k.
        to_program: `complete` for a model that continues text, `answer` for one that chats.

    Raises:
        ConfigError: completions for other problems than these, or too few for a k.
        SandboxError: the sandbox did not start.
    """
    _check_completions(problems, completions, k)
    tasks = [
        Check(
            program=to_program(problem, text),
            entry_point=problem.entry_point,
            # Some tests use what the prompt defines before the function.
            test=f"{problem.prompt}\n{problem.test}",
        )
        for problem in problems
        for text in completions[problem.task_id]
    ]
    outcomes = iter(sandbox.check_all(tasks))
    solved = tuple(
        Solved(task_id=p.task_id, outcomes=tuple(next(outcomes) for _ in completions[p.task_id]))
        for p in problems
    )
    pass_at = {n: mean_stderr([pass_at_k(len(s.outcomes), s.passed, n) for s in solved]) for n in k}
    how = (
        f"HumanEval, {len(tasks)} samples of {len(problems)} problems, unbiased estimator; "
        f"standard error over problems; {sandbox.describe()}"
    )
    return Score(solved=solved, pass_at=pass_at, how=how)


def _check_completions(
    problems: Sequence[Problem], completions: Mapping[str, Sequence[str]], k: Sequence[int]
) -> None:
    known = [problem.task_id for problem in problems]
    for task_id in completions:
        if task_id not in known:
            raise ConfigError(f"no problem is called {task_id!r}; {did_you_mean(task_id, known)}")
    for task_id in known:
        if task_id not in completions:
            raise ConfigError(f"{task_id} has no completion; give one for every problem")
        for n in k:
            pass_at_k(len(completions[task_id]), 0, n)
