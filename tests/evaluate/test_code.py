"""HumanEval: reading it, making programs of answers, and scoring."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import statistics
from fractions import Fraction
from math import comb, sqrt
from pathlib import Path
from typing import Any

import pytest

from paredown.errors import ConfigError, DataError
from paredown.evaluate.code import (
    Problem,
    answer,
    complete,
    load_problems,
    pass_at_k,
    score,
)
from paredown.evaluate.sandbox.detect import detect
from paredown.evaluate.sandbox.levels import Level
from paredown.evaluate.sandbox.run import Sandbox, SandboxLimits

DATA = Path(os.environ.get("PAREDOWN_DATA", Path(__file__).parents[3] / "shared" / "data"))

PROBLEM = Problem(
    task_id="Test/0",
    prompt=(
        "import math\n\ndef helper(x):\n    return x + 1\n\n"
        'def add_two(x: int) -> int:\n    """Add two.\n    >>> add_two(1)\n    3\n    """\n'
    ),
    entry_point="add_two",
    canonical_solution="    return helper(x) + 1\n",
    test="\n\ndef check(candidate):\n    assert candidate(1) == 3\n    assert candidate(5) == 7\n",
)
ROW = vars(PROBLEM)


@pytest.fixture
def sandbox() -> Sandbox:
    """The strongest there is; these programs are ours.

    None takes a tenth of a second. The limits are far from that, for on a busy virtual machine even
    processor time runs while nothing is done.
    """
    return Sandbox(detect()[0] or Level.LIMITS, SandboxLimits(cpu_s=60, wall_s=600.0))


@pytest.fixture
def humaneval() -> list[Problem]:
    """The 164 problems."""
    if not (DATA / "humaneval").is_dir():
        pytest.skip(f"{DATA}/humaneval is not here; set PAREDOWN_DATA")
    return load_problems(DATA)


# --- The data set -------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_every_reference_solution_passes(
    humaneval: list[Problem], sandbox: Sandbox, every: int
) -> None:
    assert len(humaneval) == 164
    problems = humaneval[::every]
    result = score(problems, {p.task_id: [p.canonical_solution] for p in problems}, sandbox)
    assert [s for s in result.solved if not s.passed] == []
    [measurement] = result.measurements()
    assert (measurement.name, measurement.value, measurement.stderr) == ("pass@1", 1.0, 0.0)
    assert measurement.n == len(problems)
    assert sandbox.describe() in measurement.how


@pytest.mark.slow
@pytest.mark.parametrize("level", list(Level))
def test_every_level_gives_the_same_score(humaneval: list[Problem], level: Level) -> None:
    right = {p.task_id: [p.canonical_solution, "    return None\n"] for p in humaneval}
    result = score(humaneval, right, Sandbox(level, SandboxLimits(wall_s=60.0)))
    assert [s.passed for s in result.solved] == [1] * 164
    assert result.pass_at[1].value == 0.5


def write(path: Path, *rows: Any) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["problems.jsonl", "HumanEval.jsonl.gz"])
def test_a_file_is_read(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, {**ROW, "more": 1}, "", {**ROW, "task_id": "Test/\u2028"})
    assert [p.task_id for p in load_problems(file)] == ["Test/0", "Test/\u2028"]
    assert load_problems(file)[0] == PROBLEM


def test_a_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "humaneval").mkdir()
    write(tmp_path / "humaneval" / "test.jsonl", ROW)
    assert load_problems(tmp_path) == [PROBLEM]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: no JSON"),
        ([1], "line 2: needs the fields task_id, prompt, entry_point, canonical_solution, test"),
        ({**ROW, "prompt": 3}, "line 2: needs the fields prompt, each a string"),
        ({**ROW, "entry_point": "add"}, "line 2: prompt does not define 'add', its entry_point"),
        ({**ROW, "test": "x = 1"}, "line 2: test does not define check"),
        (ROW, "a task_id stands there twice"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_problems(write(tmp_path / "problems.jsonl", ROW, row))


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test.jsonl is not there; check --data-dir"):
        load_problems(tmp_path)
    with pytest.raises(DataError, match="there is no problem in it"):
        load_problems(write(tmp_path / "empty.jsonl"))
    for name in ("binary.jsonl", "no.jsonl.gz"):
        (tmp_path / name).write_bytes(b"\xff\xfe")
        with pytest.raises(DataError, match="cannot be read as text"):
            load_problems(tmp_path / name)


# --- Programs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more", ["\nclass A:", "\ndef f():", "\n# note", "\nif x:", "\nprint(1)", "\n```\nDone.", ""]
)
def test_a_completion_ends_with_the_function(more: str) -> None:
    body = "    if x:\n        print(x)\n    # note\n    return helper(x) + 1"
    assert complete(PROBLEM, body + more) == PROBLEM.prompt + body + "\n"


def test_the_first_stop_counts() -> None:
    assert complete(PROBLEM, "    pass\n# a\nclass B") == PROBLEM.prompt + "    pass\n"


WHOLE = "def add_two(x):\n    return helper(x) + 1\n"
BODY = "    return helper(x) + 1\n"


@pytest.mark.parametrize(
    "text",
    [
        f"Sure!\n```python\n{WHOLE}```\nThis adds two.",
        f"```\n{WHOLE}```",
        f"First:\n```python\nprint('hello')\n```\nthen\n```py\n{WHOLE}```\n",
        f"```python\ndef add_two(x):\n    return 0\n```\nBetter:\n```python\n{WHOLE}```",
        f"1. So:\n   ```python\n   {WHOLE.replace(chr(10) + ' ', chr(10) + '    ')}   ```",
        f"```python\n{WHOLE}```\nUse:\n```python\nadd_two(1)\n```",
        f"```python\n{WHOLE}",
        f"```python\n{BODY}```\nThis adds two.",
        WHOLE,
        BODY,
        f"{BODY}\n# Explanation",
    ],
)
def test_the_code_of_an_answer_is_found(text: str, sandbox: Sandbox) -> None:
    result = score([PROBLEM], {"Test/0": [text]}, sandbox, to_program=answer)
    assert result.solved[0].passed == 1, (answer(PROBLEM, text), result.solved)


# --- Scores -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "passed", "k", "value"),
    [
        (1, 1, 1, 1.0),
        (1, 0, 1, 0.0),
        (10, 3, 1, 0.3),
        (5, 2, 2, 0.7),  # 1 - (3 * 2) / (5 * 4)
        (4, 3, 2, 1.0),  # one of any two passes
        (200, 0, 100, 0.0),
    ],
)
def test_pass_at_k_by_hand(samples: int, passed: int, k: int, value: float) -> None:
    assert pass_at_k(samples, passed, k) == pytest.approx(value, abs=1e-15)


def test_pass_at_k_is_the_share_of_choices_with_a_pass() -> None:
    for samples in range(1, 8):
        for passed, k in itertools.product(range(samples + 1), range(1, samples + 1)):
            chosen = list(itertools.combinations([True] * passed + [False] * (samples - passed), k))
            share = Fraction(sum(map(any, chosen)), len(chosen))
            assert pass_at_k(samples, passed, k) == pytest.approx(float(share), abs=1e-12)


def test_pass_at_k_is_unbiased() -> None:
    p, samples, k = 0.3, 9, 4
    expected = sum(
        comb(samples, c) * p**c * (1 - p) ** (samples - c) * pass_at_k(samples, c, k)
        for c in range(samples + 1)
    )
    assert expected == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


@pytest.mark.parametrize("k", [0, 3])
def test_pass_at_k_needs_enough_samples(k: int) -> None:
    with pytest.raises(ConfigError, match="per problem, got 2"):
        pass_at_k(2, 1, k)


def test_a_score_is_over_problems(sandbox: Sandbox) -> None:
    problems = [Problem(**{**ROW, "task_id": f"Test/{i}"}) for i in range(3)]
    right, wrong, slow = BODY, "    return 0\n", "    return undefined\n"
    completions = {
        "Test/0": [right, wrong, wrong, right],
        "Test/1": [wrong, wrong, slow],
        "Test/2": [right, right],
    }
    result = score(problems, completions, sandbox, k=(1, 2))
    assert [s.passed for s in result.solved] == [2, 0, 2]
    assert [o.passed for o in result.solved[0].outcomes] == [True, False, False, True]
    assert result.solved[1].outcomes[2].reason == "NameError: name 'undefined' is not defined"
    values = [0.5, 0.0, 1.0]
    assert result.pass_at[1].value == pytest.approx(0.5)
    assert result.pass_at[1].stderr == pytest.approx(statistics.stdev(values) / sqrt(3))
    assert result.pass_at[2].value == pytest.approx((5 / 6 + 0 + 1) / 3)
    assert [m.name for m in result.measurements()] == ["pass@1", "pass@2"]
    assert "9 samples of 3 problems" in result.how


@pytest.mark.parametrize(
    ("completions", "k", "message"),
    [
        ({"Test/0": [BODY], "Test0": [BODY]}, 1, "no problem is called 'Test0'; did you mean"),
        ({}, 1, "Test/0 has no completion"),
        ({"Test/0": [BODY]}, 2, "pass@2 needs at least 2 samples per problem, got 1"),
        ({"Test/0": []}, 1, "got 0"),
    ],
)
def test_wrong_completions_are_refused(
    completions: dict[str, list[str]], k: int, message: str, sandbox: Sandbox
) -> None:
    with pytest.raises(ConfigError, match=message):
        score([PROBLEM], completions, sandbox, k=(k,))


TOTAL = Problem(
    task_id="X/0",
    prompt='from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    """ Sum. """\n',
    entry_point="total",
    canonical_solution="    return sum(xs)\n",
    test="def check(candidate):\n    assert candidate([1, 2]) == 3\n",
)
RIGHT = {
    "future": "```python\nfrom __future__ import annotations\n\n"
    "def total(xs: list[int]) -> int:\n    return sum(xs)\n```",
    "future behind others": "```\nimport math\nfrom __future__ import (\n    annotations)\n"
    "def total(xs: Later) -> int:\n    return sum(xs)\n```",
    "fence in a docstring": '```python\ndef total(xs):\n    """Sum.\n\n    ```\n    total([1])\n'
    '    ```\n    """\n    return sum(xs)\n```',
    "tildes": "~~~python\ndef total(xs):\n    return sum(xs)\n~~~",
    "tildes around backticks": "~~~\ndef total(xs):\n    return sum(xs)\n\n'''\n```\n'''\n~~~",
    "four backticks": "````\ndef total(xs):\n    '''\n```\n    '''\n    return sum(xs)\n````",
    "among prose": "Here is it:\n\ndef total(xs):\n    return sum(xs)\n\nIt adds the numbers.",
    "with helpers, among prose": "Sure\n\nimport math\n\ndef add(a, b):\n    return a + b\n\n\n"
    "def total(xs):\n    r = 0\n\n    for x in xs:\n        r = add(r, x)\n    return r\n\n"
    "Hope it helps",
    "in a list": "1. Do:\n\n   ```py\n   def total(xs):\n       return sum(xs)\n   ```\n\n2. So.",
    "never closed": "```python\ndef total(xs):\n    return sum(xs)\n",
    "used below": "```python\ndef total(xs):\n    return sum(xs)\n```\n\n```\ntotal([1])\n```",
    "nothing but code": "def total(xs):\n    return sum(xs)",
    "the body alone": "```python\n    return sum(xs)\n```",
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_code_is_right_however_it_is_told(name: str) -> None:
    program = answer(TOTAL, RIGHT[name])
    scope: dict[str, Any] = {}
    exec(compile(program, "program", "exec"), scope)
    assert scope["total"]([1, 2]) == 3


def test_prose_that_mentions_a_function_is_no_program() -> None:
    text = "def total(xs) adds numbers.\nIt is easy."
    with pytest.raises(SyntaxError):
        compile(answer(TOTAL, text), "program", "exec")
