"""Answers item by item: kept as they come, so that nothing is computed twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from paredown.runtimes.session import Likeliest
from paredown.spec.reading import require_tame
from paredown.spec.serial import canonical
from paredown.store.atomic import clear_disk_errors, write_text


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question and how a model did on it.

    Attributes:
        id: task and row, e.g. `mmlu_anatomy/12`; the same for every model.
        part: the task.
        hash: of the row, to show that two models had the same question.
        score: of the benchmark's metric, higher is better unless the benchmark says otherwise.
        answer: which choice, or the extracted text; None where there is no such thing.
        metrics: all metrics of the item.
        truncated: its prompt lost its beginning.
        next: the likeliest tokens after its prompt; None where the engine does not tell.
        along: of a written answer, the likeliest tokens at each of the first tokens of what the
            *base* has written; empty where there is none, or the engine does not tell.
    """

    id: str
    part: str
    hash: str
    score: float
    answer: int | str | None
    metrics: Mapping[str, float]
    truncated: bool
    next: Likeliest | None = None
    along: tuple[Likeliest, ...] = ()

    @staticmethod
    def read(data: Mapping[str, Any]) -> Item:
        """From `asdict`, through JSON."""
        told = data["next"]
        next_ = None if told is None else _likeliest(told)
        return Item(**{**data, "next": next_, "along": tuple(map(_likeliest, data["along"]))})


def _likeliest(told: Mapping[str, Any]) -> Likeliest:
    return Likeliest(tuple(told["ids"]), tuple(told["logprobs"]))


@dataclass(frozen=True, kw_only=True)
class TaskItems:
    """All items of one benchmark, and what was asked."""

    name: str
    metric: str
    higher_is_better: bool
    chance: float | None
    few_shot: int
    n_available: int
    rows: str
    how: str
    items: tuple[Item, ...] = field(repr=False)

    def to_json(self) -> str:
        """For the cache."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> TaskItems:
        """From the cache."""
        data = json.loads(text)
        return TaskItems(**{**data, "items": tuple(map(Item.read, data["items"]))})

    def write_items(self, path: Path) -> None:
        """One line per item, for comparisons and for people."""
        # What may follow a prompt is for comparisons by machine: it would hide everything else.
        told = ("next", "along")
        shown = [{k: v for k, v in asdict(i).items() if k not in told} for i in self.items]
        lines = [json.dumps(item, ensure_ascii=False) for item in shown]
        write_text(path, "\n".join(lines) + "\n")


class Responses:
    """What a model answered to each request, appended to a file as it comes.

    A process that is killed loses at most the batch in flight; the next finds the rest here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, list[Any]] = {}
        if path.exists():
            # Damaged lines are asked again: the bytes of one must not hide those of the others.
            text = path.read_bytes().decode("utf-8", errors="replace")
            for line in text.split("\n"):
                if (kept := _kept(line)) is not None:
                    self._known[kept[0]] = kept[1]

    @staticmethod
    def key(kind: str, request: Sequence[Any]) -> str:
        """Identity of a request: equal texts, equal key."""
        return hashlib.sha256(canonical([kind, *request]).encode()).hexdigest()[:24]

    def get(self, key: str) -> list[Any] | None:
        """The stored answer."""
        return self._known.get(key)

    def add(self, answers: Mapping[str, list[Any]]) -> None:
        """Store answers; they are on disk when this returns."""
        self._known |= answers
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps([key, answer]) + "\n" for key, answer in answers.items())
        with clear_disk_errors(self.path), self.path.open("a+b") as file:
            # After a line that a kill cut short, start a new one.
            if file.tell() and not _ends_line(file):
                text = "\n" + text
            file.write(text.encode())


def _kept(line: str) -> tuple[str, list[Any]] | None:
    """Key and answer of a stored line; None for what a kill cut short, or a fault damaged."""
    try:
        row = json.loads(line)
        require_tame(row)
    except (ValueError, RecursionError):
        return None
    match row:
        case [str(key), list(answer)]:
            return key, answer
        case _:
            return None


def _ends_line(file: Any) -> bool:
    file.seek(-1, 2)
    ended: bool = file.read(1) == b"\n"
    return ended


def draw(sizes: Mapping[str, int], limit: int, *, seed: int) -> dict[str, list[int]]:
    """Rows to score: per part in proportion to its size, the same for every model.

    Places are handed out by largest remainder, the larger part first where remainders are equal.
    Within a part, the rows of a smaller limit are among those of a larger one.

    Args:
        sizes: rows per part.
        limit: rows altogether; 0 means all.

    Returns:
        Ascending row numbers per part; parts without any are left out.
    """
    total = sum(sizes.values())
    if limit == 0 or limit >= total:
        return {part: list(range(size)) for part, size in sizes.items() if size}
    exact = {part: limit * size / total for part, size in sizes.items()}
    counts = {part: int(share) for part, share in exact.items()}
    order = sorted(sizes, key=lambda part: (counts[part] - exact[part], -sizes[part], part))
    for part in order[: limit - sum(counts.values())]:
        counts[part] += 1
    return {
        part: sorted(Random(f"{seed}/{part}").sample(range(sizes[part]), sizes[part])[:count])
        for part, count in counts.items()
        if count
    }
