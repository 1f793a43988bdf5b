"""Advisors with given answers, in the place of an LLM: a sensible one, and ones that do harm.

They answer through the whole road of a real one: the prompt that it would get, its words parsed
and checked, one repair round, the portfolio's cap. Only the network is left out.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paredown.advise.client import Endpoint, Message, Reply, estimate_tokens
from paredown.advise.policy import LlmPolicy
from paredown.advise.prompts import Background
from paredown.judge.quantities import QUANTITIES
from paredown.search.replay import Table
from paredown.spec.model import ModelSpec
from paredown.spec.run import LlmConfig, RunConfig
from paredown.store.events import EventLog

Answer = Callable[[str, random.Random, int], str]
"""From the question, chance, and the number of the question to the answer's text."""


@dataclass(frozen=True)
class Candidate:
    """A line of a prompt: a strategy with its perplexity and ratio, measured or expected."""

    name: str
    perplexity: float | None
    ratio: float

    @property
    def place(self) -> tuple[float, float] | None:
        """On the axes of quality and size: 0 at the best end, 1 at the worst."""
        if self.perplexity is None:
            return None
        costs = {"quality": self.perplexity, "size": 1.0 / self.ratio}
        found = []
        for name, cost in costs.items():
            low, high = math.log(QUANTITIES[name].best), math.log(QUANTITIES[name].worst)  # type: ignore[index]
            found.append((math.log(cost) - low) / (high - low))
        return found[0], found[1]


def greedy(question: str, rng: random.Random, number: int) -> str:
    """The candidate that should widen the front most, by what the prompt expects of it; before
    anything is expected, the first one shown."""
    front = [row.place for row in _rows(question, "RESULTS", "front: ")]
    shown = _rows(question, "UNTRIED CANDIDATES", "")
    known = [place for place in front if place is not None]

    def gain(row: Candidate) -> float:
        return 0.0 if row.place is None else _area([*known, row.place]) - _area(known)

    best = max(shown, key=gain)
    return _advice(best.name, "most volume beyond the front, as expected")


def uniform(table: Table) -> Answer:
    """Any strategy of the space, tried or not."""
    names = [trial.label for trial in table.trials]
    return lambda question, rng, number: _advice(rng.choice(names), "drawn")


def worst(table: Table) -> Answer:
    """The strategies that lose most quality, the worst first: an adversary that knows them all."""
    lost = sorted(table.trials, key=lambda trial: -(trial.value("perplexity") or math.inf))
    names = [trial.label for trial in lost]
    return lambda question, rng, number: _advice(names[number % len(names)], "the worst")


def constant(question: str, rng: random.Random, number: int) -> str:
    """The same strategy at every turn."""
    return _advice("rtn", "always this one")


def malformed(question: str, rng: random.Random, number: int) -> str:
    """No JSON, JSON of another form, code, a strategy that does not exist, nothing, too much."""
    return (
        "I would try quantization next.",
        '{"action": "quantization"',
        '{"strategy": ["rtn"], "why": 3}',
        _advice("__import__('os').system('true')", "code"),
        _advice("gptq(bits=1)", "not there"),
        "",
        "{" * 20_000,
    )[number % 7]


def advisor(name: str, table: Table, *, seed: int) -> Answer:
    """The advisor called `name`; a path names a file of recorded answers.

    `greedy` is a rule of a few lines; the others are adversaries.
    """
    match name:
        case "greedy":
            return greedy
        case "random":
            return uniform(table)
        case "worst":
            return worst(table)
        case "constant":
            return constant
        case "malformed":
            return malformed
    return recorded(Path(name), seed)


def _advice(strategy: str, reason: str) -> str:
    expected = {"perplexity_ratio": None, "speedup": None}
    return json.dumps({"action": "pipeline" if ">" in strategy else "quantization",
                       "strategy": strategy, "expected": expected, "reason": reason})  # fmt: skip


def _rows(question: str, section: str, mark: str) -> list[Candidate]:
    """The table of a section, of its lines that begin with `mark`."""
    start = question.find(section)
    lines = question[start:].split("\n\n", 1)[0].splitlines()[1:] if start >= 0 else []
    found = []
    for line in lines:
        cells = [cell.strip() for cell in line.removeprefix(mark).split("|")]
        if not line.startswith(mark) or len(cells) < 2:
            continue
        numbers = [_number(cell) for cell in cells[1:3]]
        if len(numbers) == 1:  # nothing is expected yet: name and ratio alone
            numbers.insert(0, None)
        if numbers[1]:
            found.append(Candidate(cells[0], numbers[0], numbers[1]))
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _area(places: Sequence[tuple[float, float]]) -> float:
    """Area of the unit square that the places dominate."""
    total, edge = 0.0, 1.0
    for first, second in sorted(p for p in places if max(p) < 1):
        if second < edge:
            total += (1.0 - first) * (edge - second)
            edge = second
    return total


@dataclass
class Scripted:
    """Stands where `Advisor` stands: gives the answers of a script, or recorded ones in turn."""

    answer: Answer
    seed: int
    asked: int = 0
    config: LlmConfig = field(default_factory=lambda: LlmConfig(budget_tokens=10**9))
    endpoint: Endpoint = field(
        default_factory=lambda: Endpoint(model="script", url="http://none", key="", price=None)
    )

    def ask(self, messages: Sequence[Message], schema: dict[str, Any]) -> Reply:
        rng = random.Random(f"{self.seed} {self.asked}")
        text = self.answer(messages[1]["content"], rng, self.asked)
        self.asked += 1
        sent, received = estimate_tokens(messages), estimate_tokens([{"content": text}])
        return Reply(
            text=text, sent=sent, received=received, counted="estimated", usd=None, seconds=0.0
        )


def recorded(path: Path, seed: int) -> Answer:
    """The answers of one recording after another, from a file of lists of texts."""
    runs = json.loads(path.read_text())["runs"]
    answers: list[str] = runs[seed % len(runs)]
    return lambda question, rng, number: answers[number % len(answers)]


def advisor_policy(answer: Answer, *, seed: int, spec: ModelSpec, folder: Path) -> LlmPolicy:
    """The arm of an LLM that gives these answers; its questions are logged in `folder`."""
    config = RunConfig(model=spec.name, objectives=("quality", "size"))
    background = Background(spec=spec, config=config, device="cpu")
    events = EventLog(folder / f"events-{seed}.jsonl")
    return LlmPolicy(Scripted(answer, seed), background, events)  # type: ignore[arg-type]
