"""One episode to the last number: what was tried and why, its plan, its items, its log."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paredown.errors import ConfigError, ExperimentError
from paredown.judge.words import one_line
from paredown.spec.plan import PlanRecord
from paredown.spec.reading import json_rows, read_text
from paredown.spec.redact import redact
from paredown.spec.result import TrialResult
from paredown.spec.scores import TaskScore
from paredown.store.experiment import Decided, Experiment, read_result

LOG_BYTES = 20_000
"""End of a log that is shown."""


@dataclass(frozen=True, kw_only=True)
class Detail:
    """An episode.

    Attributes:
        decided: by whom and why; None where an older version has not written it down.
        plan: bits layer by layer; None where the strategy has none, or its artifact is gone.
        artifact: folder of the model, while it is kept.
        log: its end.
    """

    result: TrialResult
    decided: Decided | None
    plan: PlanRecord | None
    artifact: Path | None
    log: str


def detail(folder: Path, episode: int) -> Detail | None:
    """An episode of an experiment; None where it has not ended.

    Raises:
        ExperimentError: a file of it is damaged.
    """
    result = read_result(folder, episode)
    if result is None:
        return None
    experiment = Experiment(folder)
    artifact = None if result.artifact is None else folder / result.artifact
    if artifact is not None and not artifact.is_dir():
        artifact = None
    return Detail(
        result=result,
        decided=experiment.decided(episode),
        plan=None if artifact is None else read_plan(artifact),
        artifact=artifact,
        log=log_tail(experiment.episode(episode) / "worker.log"),
    )


def read_plan(artifact: Path) -> PlanRecord | None:
    """The plan of an artifact; None where it was made without one."""
    try:
        return PlanRecord.read(artifact)
    except ConfigError:
        return None


def log_tail(path: Path) -> str:
    """The last lines of a log; empty where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - LOG_BYTES, 0))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    whole = text if size <= LOG_BYTES else text.partition("\n")[2]
    return redact(whole)


@dataclass(frozen=True, kw_only=True)
class Flip:
    """An item of a benchmark on which a model does otherwise than its base."""

    item: str
    lost: bool
    base_score: float
    score: float
    base_answer: str
    answer: str


def flips(folder: Path, result: TrialResult, score: TaskScore) -> list[Flip]:
    """The items that turned, lost ones first, in the order in which they were asked.

    Raises:
        ExperimentError: a file of items is damaged.
    """
    base = read_result(folder, 0)
    if base is None or result.episode == 0:
        return []
    theirs = next((found for found in base.scores if found.name == score.name), None)
    if theirs is None:
        return []
    experiment = Experiment(folder)
    before = {i["id"]: i for i in _items(experiment.episode(0) / theirs.items)}
    found = []
    for item in _items(experiment.episode(result.episode) / score.items):
        old = before.get(item["id"])
        # By the question's content: a number alone may be another row in another version.
        if old is None or old.get("hash") != item.get("hash") or old["score"] == item["score"]:
            continue
        found.append(
            Flip(
                item=str(item["id"]),
                lost=(item["score"] < old["score"]) == score.higher_is_better,
                base_score=float(old["score"]), score=float(item["score"]),
                base_answer=_shown(old.get("answer")), answer=_shown(item.get("answer")),
            )
        )  # fmt: skip
    return sorted(found, key=lambda flip: not flip.lost)


def _items(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    text = read_text(path, error=ExperimentError)
    rows = [row for _, row in json_rows(text, where=str(path), error=ExperimentError)]
    if not all(isinstance(row, dict) and {"id", "score"} <= row.keys() for row in rows):
        raise ExperimentError(f"{path} is damaged: a line is no item")
    return rows


def _shown(answer: object) -> str:
    if answer is None:
        return ""
    return one_line(answer if isinstance(answer, str) else json.dumps(answer), 200)
