"""One experiment from the files that its run rewrites after every episode.

They are what makes ten thousand episodes open at once: reading every `results.json` would take
half a minute. They hold what the run has judged, so nothing is judged here.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from paredown.dashboard.files import Files
from paredown.dashboard.queries import read_document
from paredown.errors import ExperimentError
from paredown.report.documents import front_document
from paredown.report.findings import find
from paredown.report.style import BASELINE
from paredown.report.write import FINAL_FILE, FRONT_FILE
from paredown.spec.reading import read_text
from paredown.spec.result import Measurement, TrialResult
from paredown.spec.run import RunConfig
from paredown.store.experiment import (
    read_experiment,
    read_request,
    read_result,
)
from paredown.store.history import HISTORY_FIELDS, HISTORY_FILE, history
from paredown.store.state import Moment, State, read_moment, state_in

Outcome = Literal["on front", "dominated", "misses a limit", "failed", "base"]
PLANNER = "mixed"
"""The method whose models have bits chosen layer by layer; all others are uniform."""
_NOT_NUMBERS = frozenset({"episode", "strategy", "kind", "status", "on_front", "failure", "unmet"})
_METHOD = re.compile(r"[A-Za-z_]\w*")
_Front = tuple[dict[str, Any], dict[int, tuple[Measurement, ...]]]
"""`pareto_frontier.json`, and the measurements in it by episode."""
_MEASUREMENTS = TypeAdapter(tuple[Measurement, ...])


@dataclass(frozen=True, kw_only=True)
class Row:
    """An episode as the history has it.

    Attributes:
        label: the strategy.
        method: of the last step, which decides how weights are stored.
        values: what was measured, by column.
        why: failure, or limits missed.
    """

    episode: int
    label: str
    kind: str
    method: str
    outcome: Outcome
    values: Mapping[str, float]
    why: str

    @property
    def is_mixed(self) -> bool:
        """Whether its bits were chosen layer by layer."""
        return self.method == PLANNER


@dataclass(frozen=True, kw_only=True)
class Summary:
    """An experiment, finished or running.

    Attributes:
        run: `run.json`.
        moment: what the run is doing; None where none runs.
        rows: by episode; the base is episode 0.
        objectives: of the front.
        measurements: of the results on the front, by episode: with errors, unlike `rows`.
        baseline: result of episode 0.
        knee, recommended, runner_up: episodes.
        recommendation: why, in words.
        stop_reason: why the run ended.
    """

    folder: Path
    run: Mapping[str, Any]
    config: RunConfig
    state: State
    moment: Moment | None
    rows: tuple[Row, ...]
    objectives: tuple[str, ...]
    measurements: Mapping[int, tuple[Measurement, ...]]
    baseline: TrialResult | None
    knee: int | None
    recommended: int | None
    runner_up: int | None
    recommendation: str
    stop_reason: str

    @property
    def trials(self) -> tuple[Row, ...]:
        """All episodes but the base."""
        return tuple(row for row in self.rows if row.episode > 0)

    @property
    def scores(self) -> tuple[str, ...]:
        """Columns of benchmarks."""
        found = {name: None for row in self.rows for name in row.values}
        return tuple(name for name in found if name not in HISTORY_FIELDS)

    def row(self, episode: int | None) -> Row | None:
        """The row of an episode, if it has ended."""
        return next((row for row in self.rows if row.episode == episode), None)


def summarise(folder: Path, files: Files) -> Summary:
    """An experiment as it stands.

    Raises:
        ExperimentError: `folder` is none, or a file is damaged.
    """
    run, config = files.get(folder / "run.json", _request)
    front_path, history_path = folder / FRONT_FILE, folder / HISTORY_FILE
    state = state_in(folder)
    if front_path.exists() and history_path.exists():
        front = files.get(front_path, _read_front)
        rows = files.get(history_path, _read_history)
    else:  # killed before the first episode was summed up
        front, rows = files.get(folder, _summed_up, folder / "events.jsonl")
    document, measurements = front
    final = files.get(folder / FINAL_FILE, read_document) or {}
    # An older version wrote its choice only at the end.
    chosen = document if "recommended" in document else final
    return Summary(
        folder=folder, run=run, config=config, state=state,
        moment=read_moment(folder) if state == "running" else None,
        rows=rows,
        objectives=tuple(str(o["objective"]) for o in document["objectives"]),
        measurements=measurements,
        baseline=files.get(folder / "episode_000" / "results.json", _read_baseline),
        knee=document["knee"],
        recommended=_episode(chosen.get("recommended")),
        runner_up=_episode(chosen.get("runner_up")),
        recommendation=str(chosen.get("recommendation") or ""),
        stop_reason=str(final.get("stop_reason") or ""),
    )  # fmt: skip


def _request(path: Path) -> tuple[dict[str, Any], RunConfig]:
    return read_request(path.parent)


def _read_baseline(path: Path) -> TrialResult | None:
    return read_result(path.parent.parent, 0)


def _summed_up(folder: Path) -> tuple[_Front, tuple[Row, ...]]:
    """What the run would write, where it has not."""
    findings = find(read_experiment(folder))
    text = history(findings.record.results, set(findings.front.episodes))
    return _front(front_document(findings)), read_rows(text)


def _episode(chosen: Mapping[str, Any] | None) -> int | None:
    return None if chosen is None else int(chosen["episode"])


def _read_front(path: Path) -> _Front:
    document = read_document(path)
    if document is None:
        raise ExperimentError(f"{path}: it was there a moment ago; look again")
    return _front(document)


def _front(document: dict[str, Any]) -> _Front:
    measured = {
        int(entry["episode"]): _MEASUREMENTS.validate_python(entry["measurements"])
        for entry in document["front"]
    }
    return document, measured


def _read_history(path: Path) -> tuple[Row, ...]:
    return read_rows(read_text(path, error=ExperimentError))


def read_rows(text: str) -> tuple[Row, ...]:
    """The episodes of a `search_history.csv`."""
    lines = csv.reader(io.StringIO(text))
    names = next(lines, [])
    if not {"episode", "strategy", "kind", "status"} <= set(names):
        raise ExperimentError(f"{HISTORY_FILE} is damaged: its first line names no columns")
    numbers = [(i, name) for i, name in enumerate(names) if name not in _NOT_NUMBERS]
    texts = [(i, name) for i, name in enumerate(names) if name in _NOT_NUMBERS]
    found = []
    for line in lines:
        if len(line) != len(names) or not line[names.index("episode")].isdigit():
            raise ExperimentError(f"{HISTORY_FILE} is damaged in line {lines.line_num}")
        values = {name: v for i, name in numbers if (v := _number(line[i])) is not None}
        found.append(_row({name: line[i] for i, name in texts}, values))
    return tuple(found)


def _row(cells: Mapping[str, str], values: Mapping[str, float]) -> Row:
    episode = int(cells["episode"])
    return Row(
        episode=episode,
        label=cells["strategy"],
        kind=cells["kind"],
        method=BASELINE if episode == 0 else last_method(cells["strategy"]),
        outcome=_outcome(episode, cells),
        values=values,
        why=cells.get("failure") or cells.get("unmet") or "",
    )


def _number(cell: str) -> float | None:
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _outcome(episode: int, cells: Mapping[str, str]) -> Outcome:
    if cells["status"] == "failed":
        return "failed"
    if episode == 0:
        return "base"
    if cells.get("unmet"):
        return "misses a limit"
    return "on front" if cells.get("on_front") == "1" else "dominated"


def last_method(label: str) -> str:
    """`afr(ratio=0.2) > gptq` -> `gptq`."""
    found = _METHOD.match(label.rpartition(" > ")[2].strip())
    return label if found is None else found[0]
