"""Advisors with given answers, in the place of an LLM: sensible ones, and ones that do harm.

They answer through the whole road of a real one: the prompt that it would get, its words parsed
and checked, one repair round, the portfolio's cap or the lead. Only the network is left out.
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
from paredown.spec.run import LlmConfig, Objective, RunConfig
from paredown.spec.strategy import Strategy
from paredown.store.events import EventLog

Answer = Callable[[str, random.Random, int], str]
"""From the question, chance, and the number of the question to the answer's text."""


@dataclass(frozen=True)
class Candidate:
    """A line of a prompt: a strategy with its perplexity and ratio, measured or expected, and what
    its trial is expected to take."""

    name: str
    perplexity: float | None
    ratio: float
    seconds: float | None = None

    @property
    def place(self) -> tuple[float, float] | None:
        """On the axes of quality and size: 0 at the best end, 1 at the worst."""
        return None if self.perplexity is None else _place(self.perplexity, self.ratio)


def greedy(question: str, rng: random.Random, number: int) -> str:
    """The candidate that should widen the front most, by what the prompt expects of it; before
    anything is expected, the first one shown."""
    best = max(_rows(question, "UNTRIED CANDIDATES", ""), key=_gain_beyond_the_front(question))
    return _advice(best.name, "most volume beyond the front, as expected")


def thrifty(question: str, rng: random.Random, number: int) -> str:
    """The candidate that should widen the front most for the seconds that it takes: what a sensible
    reader of the prompt would choose."""
    gain = _gain_beyond_the_front(question)

    def rate(row: Candidate) -> float:
        return gain(row) / max(1.0, row.seconds or 1.0)

    best = max(_rows(question, "UNTRIED CANDIDATES", ""), key=rate)
    return _advice(best.name, "most volume per second, as expected")


def _gain_beyond_the_front(question: str) -> Callable[[Candidate], float]:
    front = [row.place for row in _rows(question, "RESULTS", "front: ")]
    known = [place for place in front if place is not None]

    def gain(row: Candidate) -> float:
        return 0.0 if row.place is None else _area([*known, row.place]) - _area(known)

    return gain


def uniform(table: Table) -> Answer:
    """Any strategy of the space, tried or not."""
    names = [trial.label for trial in table.trials]
    return lambda question, rng, number: _advice(rng.choice(names), "drawn")


def expert(table: Table) -> Answer:
    """What truly widens the front most, step by step, and then nothing: it knows every result
    beforehand, as nobody does, so it shows the most that any advice can bring."""
    base, space = table.baseline.value("perplexity"), table.space
    left: dict[str, tuple[float, float]] = {}
    for trial in table.trials:
        perplexity = trial.value("perplexity")
        if perplexity and base and trial.strategy is not None:
            left[trial.label] = _place(perplexity / base, space.ratio(trial.strategy))
    order: list[str] = []
    known: list[tuple[float, float]] = []
    while left:
        best = max(left, key=lambda name: _area([*known, left[name]]))
        if _area([*known, left[best]]) <= _area(known):
            break
        order.append(best)
        known.append(left.pop(best))
    return lambda question, rng, number: (
        _advice(order[number], "the best that is left")
        if number < len(order)
        else json.dumps({"action": "search", "strategy": None, "reason": "the front is whole"})
    )


def fool(table: Table) -> Answer:
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

    `expert` knows the table; `greedy` and `thrifty` are rules of a few lines; the others are
    adversaries.
    """
    match name:
        case "greedy":
            return greedy
        case "thrifty":
            return thrifty
        case "random":
            return uniform(table)
        case "expert":
            return expert(table)
        case "fool":
            return fool(table)
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
            seconds = _number(cells[5]) if len(cells) > 5 else None
            found.append(Candidate(cells[0], numbers[0], numbers[1], seconds))
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _place(perplexity: float, ratio: float) -> tuple[float, float]:
    """Over the baseline's, on the axes of quality and size: 0 at the best end, 1 at the worst."""
    costs: dict[Objective, float] = {"quality": perplexity, "size": 1.0 / ratio}
    found = []
    for name, cost in costs.items():
        low, high = math.log(QUANTITIES[name].best), math.log(QUANTITIES[name].worst)
        found.append((math.log(cost) - low) / (high - low))
    return found[0], found[1]


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


def advisor_policy(
    answer: Answer,
    *,
    seed: int,
    spec: ModelSpec,
    folder: Path,
    share: float = 0.3,
    first: tuple[Strategy, ...] = (),
) -> LlmPolicy:
    """The policy of an LLM that gives these answers, and is shown these strategies `first`; its
    questions are logged in `folder`."""
    llm = LlmConfig(share=share)
    config = RunConfig(model=spec.name, objectives=("quality", "size"), llm=llm)
    background = Background(spec=spec, config=config, device="cpu", first=first)
    events = EventLog(folder / f"events-{seed}.jsonl")
    return LlmPolicy(Scripted(answer, seed), background, events)  # type: ignore[arg-type]
