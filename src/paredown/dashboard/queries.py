"""Which experiments there are, and how each stands; from their summary files alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paredown.dashboard.files import Files
from paredown.errors import ConfigError, ExperimentError
from paredown.report.write import FINAL_FILE, FRONT_FILE
from paredown.spec.reading import parse_json, read_text
from paredown.store.experiment import is_experiment, read_request
from paredown.store.history import HISTORY_FILE
from paredown.store.state import State, state_in

_RUN_FILE, _LOG_FILE = "run.json", "events.jsonl"


@dataclass(frozen=True, kw_only=True)
class Overview:
    """An experiment in a line.

    Attributes:
        folder: of the experiment.
        model: as it was asked for.
        state: `damaged` where its request cannot be read; `best` then says why.
        done, episodes: trials that have ended, and that were asked for.
        best: what is recommended, or why nothing is.
        changed: when anything was last written of it, seconds since 1970.
    """

    folder: Path
    model: str
    state: State | Literal["damaged"]
    done: int
    episodes: int
    best: str
    changed: float

    @property
    def name(self) -> str:
        return self.folder.name


def experiment_folders(root: Path) -> list[Path]:
    """The experiments in a folder, or the folder itself if it is one; what changed last first."""
    if is_experiment(root):
        return [root]
    if not root.is_dir():
        return []
    found = [folder for folder in root.iterdir() if is_experiment(folder)]
    return sorted(found, key=_changed, reverse=True)


def overview(folder: Path, files: Files) -> Overview:
    """How an experiment stands; a damaged one says so, and hides no other."""
    changed = _changed(folder)
    try:
        _, config = files.get(folder / _RUN_FILE, _request)
        front = files.get(folder / FRONT_FILE, read_document)
        if (
            front is None or "recommended" not in front
        ):  # of an older version, which chose at the end alone
            front = files.get(folder / FINAL_FILE, read_document)
        done = files.get(folder / HISTORY_FILE, _count)
    except ConfigError as error:
        return Overview(
            folder=folder, model="", state="damaged", done=0, episodes=0, best=str(error),
            changed=changed,
        )  # fmt: skip
    return Overview(
        folder=folder, model=config.model, state=state_in(folder), done=done,
        episodes=config.episodes, best=_best(front or {}), changed=changed,
    )  # fmt: skip


def _request(path: Path) -> Any:
    return read_request(path.parent)


def read_document(path: Path) -> dict[str, Any] | None:
    """A file of JSON that the run writes; None where it has not yet.

    Raises:
        ExperimentError: it is damaged.
    """
    if not path.exists():
        return None
    text = read_text(path, error=ExperimentError)
    found = parse_json(text, where=f"{path} is damaged", error=ExperimentError)
    if not isinstance(found, dict):
        raise ExperimentError(f"{path} is damaged: it holds no object")
    return found


def _count(path: Path) -> int:
    """Trials in the history: lines, without the head and the base."""
    if not path.exists():
        return 0
    text = read_text(path, error=ExperimentError)
    return sum(line[:1].isdigit() and not line.startswith("0,") for line in text.splitlines())


def _best(document: dict[str, Any]) -> str:
    """What is recommended; empty where nothing is yet."""
    chosen = document.get("recommended")
    if chosen is None:
        return ""
    return "uncompressed" if chosen["episode"] == 0 else f"{chosen['label']} ({chosen['episode']})"


def _changed(folder: Path) -> float:
    times = []
    for name in (_LOG_FILE, _RUN_FILE, FRONT_FILE):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)
