"""Experiment folders: the truth about a run. Written atomically, readable without torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from paredown.errors import ExperimentError, did_you_mean
from paredown.spec.model import ModelSpec
from paredown.spec.reading import parse_json, read_text
from paredown.spec.result import TrialResult
from paredown.spec.run import RunConfig
from paredown.spec.serial import SCHEMA_VERSION, plain
from paredown.spec.strategy import Strategy
from paredown.store.atomic import clear_disk_errors, write_json
from paredown.store.events import EventLog, read_events
from paredown.store.state import State, state_in

_EPISODE = re.compile(r"^episode_(\d+)$")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


@dataclass(frozen=True)
class ExperimentRecord:
    """Everything an experiment folder says; opens on any machine."""

    folder: Path
    config: RunConfig
    run: dict[str, Any]
    """`run.json` as a whole: config, versions, hardware."""
    spec: ModelSpec
    results: tuple[TrialResult, ...]
    """By episode; the baseline is episode 0."""
    events: tuple[dict[str, Any], ...]
    final: dict[str, Any] | None
    """`final_results.json`, once the run has ended."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def baseline(self) -> TrialResult | None:
        return next((r for r in self.results if r.episode == 0), None)

    @property
    def trials(self) -> tuple[TrialResult, ...]:
        """All episodes but the baseline."""
        return tuple(r for r in self.results if r.episode > 0)


class Begun(NamedTuple):
    """An episode that was begun and not finished."""

    episode: int
    strategy: Strategy


@dataclass(frozen=True, kw_only=True)
class Decided:
    """Why an episode was begun, kept beside its strategy.

    Attributes:
        policy: that decided.
        reason: in words.
        expected: by measurement name, before anything was run.
    """

    policy: str
    reason: str
    expected: dict[str, float]


_DECIDED = TypeAdapter(Decided)


class Experiment:
    """An experiment folder open for writing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events = EventLog(folder / "events.jsonl")

    @staticmethod
    def create(folder: Path, config: RunConfig, spec: ModelSpec, run: dict[str, Any]) -> Experiment:
        """Write what is known at the start into a folder that `lock` has claimed."""
        write_json(folder / "model_spec.json", spec)
        document = {"schema_version": SCHEMA_VERSION, "config": plain(config), **run}
        write_json(folder / "run.json", document)  # last: its presence marks the folder as ours
        return Experiment(folder)

    def episode(self, number: int) -> Path:
        """Folder of episode `number`."""
        return self.folder / f"episode_{number:03d}"

    def begin(
        self,
        number: int,
        strategy: Strategy | None,
        *,
        decided: Decided | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> Path:
        """Create the folder of an episode and record what will be tried in it, and why.

        Args:
            inputs: hashes of what the strategy only names, such as a folder of images.
        """
        folder = self.episode(number)
        folder.mkdir(parents=True, exist_ok=True)
        document = {"schema_version": SCHEMA_VERSION, "strategy": plain(strategy)}
        if inputs:
            document["inputs"] = dict(inputs)
        if decided is not None:
            # In one file with the strategy: a decision in the log may not have been carried out,
            # when a kill came in between and the resumed run decided otherwise.
            document["decided"] = plain(asdict(decided))
        write_json(folder / "strategy.json", document)
        return folder

    def decided(self, number: int) -> Decided | None:
        """Why an episode was begun; None where an older version has not written it down.

        Raises:
            ExperimentError: its strategy.json is damaged.
        """
        path, kept = self._begun_with(number, "decided")
        if kept is None:
            return None
        try:
            return _DECIDED.validate_python(kept)
        except ValidationError as error:
            raise ExperimentError(f"{path} cannot be read: {_first(error)}") from None

    def inputs(self, number: int) -> dict[str, Any]:
        """Hashes of what the strategy of an episode only names; empty if there are none.

        Raises:
            ExperimentError: its strategy.json is damaged.
        """
        path, kept = self._begun_with(number, "inputs")
        if kept is not None and not isinstance(kept, dict):
            raise ExperimentError(f"{path} cannot be read: inputs: must be an object")
        return kept or {}

    def _begun_with(self, number: int, field: str) -> tuple[Path, Any]:
        """The file that says what was begun, and one of its fields."""
        path = self.episode(number) / "strategy.json"
        if not path.exists():  # the folder is an older version's, or somebody has tidied up
            return path, None
        told = _read(path, fault="cannot be read")
        return path, told.get(field) if isinstance(told, dict) else None

    def set_aside(self, result: TrialResult) -> None:
        """Keep a result that another is about to replace beside it, under its machine's name."""
        name = f"results-{result.machine or 'unknown'}.json"
        write_json(self.episode(result.episode) / name, result)

    def finish(self, result: TrialResult) -> None:
        """Record the result; from here on the episode is never run again."""
        write_json(self.episode(result.episode) / "results.json", result)

    def results(self) -> tuple[TrialResult, ...]:
        """All finished episodes."""
        return _read_results(self.folder)

    def in_flight(self) -> tuple[Begun, ...]:
        """The episodes that were begun and not finished, by number: they run, or a kill left them.

        Not the baseline: it is simply measured again.

        Raises:
            ExperimentError: its strategy.json is damaged.
        """
        found = []
        for folder in _episode_folders(self.folder):
            path = folder / "strategy.json"
            if path.exists() and not (folder / "results.json").exists():
                strategy = _read_strategy(path)
                if strategy is not None:
                    found.append(Begun(_number(folder), strategy))
        return tuple(found)


def _read_strategy(path: Path) -> Strategy | None:
    data = _read(path, fault="cannot be read")
    if (
        isinstance(data, dict) and "schema_version" in data
    ):  # the first version wrote the strategy alone
        _require_known(path, data)
        data = data.get("strategy")
    try:
        return None if data is None else Strategy.model_validate(data)
    except ValidationError as error:
        raise ExperimentError(f"{path} cannot be read: {_first(error)}") from None


def _require_known(path: Path, document: dict[str, Any]) -> None:
    """Refuse what a newer version wrote: reading half of it would mislead."""
    version = document.get("schema_version", 1)
    if not isinstance(version, int):
        raise ExperimentError(f"{path} is damaged: its schema_version is no whole number")
    if version > SCHEMA_VERSION:
        raise ExperimentError(
            f"{path}: written by a newer paredown (schema {version}); please upgrade"
        )


def _number(folder: Path) -> int:
    match = _EPISODE.match(folder.name)
    if match is None:
        raise AssertionError(folder)
    return int(match[1])


def _episode_folders(folder: Path) -> list[Path]:
    return sorted((f for f in folder.glob("episode_*") if _EPISODE.match(f.name)), key=_number)


def _read_results(folder: Path) -> tuple[TrialResult, ...]:
    paths = [f / "results.json" for f in _episode_folders(folder)]
    return tuple(_read_result(path) for path in paths if path.exists())


def read_result(folder: Path, episode: int) -> TrialResult | None:
    """The result of one episode of an experiment; None where it has not finished.

    Raises:
        ExperimentError: its file is damaged.
    """
    path = Experiment(folder).episode(episode) / "results.json"
    return _read_result(path) if path.exists() else None


def read_request(folder: Path) -> tuple[dict[str, Any], RunConfig]:
    """`run.json` of an experiment, as a whole and as the request in it.

    Raises:
        ExperimentError: there is no experiment in `folder`, or the file is damaged.
    """
    require_experiment(folder)
    path = folder / "run.json"
    run = _document(path)
    _require_known(path, run)
    try:
        return run, RunConfig.model_validate(run.get("config"))
    except ValidationError as error:
        raise ExperimentError(f"{path} is damaged: {_first(error)}") from None


def _read_result(path: Path) -> TrialResult:
    mend = f"delete the folder {path.parent.name} to have the episode run again"
    document = _document(path, mend)
    _require_known(path, document)
    try:
        return TrialResult.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise ExperimentError(f"{path} is damaged: {_first(error)}; {mend}") from None


def _read(path: Path, mend: str = "", *, fault: str = "is damaged") -> Any:
    text = read_text(path, error=ExperimentError, mend=mend)
    return parse_json(text, where=f"{path} {fault}", error=ExperimentError, mend=mend)


def _document(path: Path, mend: str = "") -> dict[str, Any]:
    """The object of a record, whatever has become of its file.

    Raises:
        ExperimentError: it is damaged; the file is told.
    """
    value = _read(path, mend)
    if not isinstance(value, dict):
        raise ExperimentError(f"{path} is damaged: it holds no object" + (mend and f"; {mend}"))
    return value


def _first(error: ValidationError) -> str:
    """Where and what, of the first of a record's faults, in a line."""
    fault = error.errors()[0]
    where = ".".join(map(str, fault["loc"]))
    return f"{where}: {fault['msg']}" if where else fault["msg"]


def is_experiment(folder: Path) -> bool:
    """Whether an experiment was started in this folder."""
    return (folder / "run.json").is_file()


def require_experiment(folder: Path) -> None:
    """Refuse a folder in which no experiment was started.

    Raises:
        ExperimentError: it is none; names the nearest beside it.
    """
    if not is_experiment(folder):
        siblings = [f.name for f in folder.parent.glob("*") if is_experiment(f)]
        hint = f"; {did_you_mean(folder.name, siblings)}" if siblings else ""
        raise ExperimentError(f"{folder} is no experiment folder (it has no run.json){hint}")


def read_experiment(folder: Path) -> ExperimentRecord:
    """Read a finished or running experiment.

    Raises:
        ExperimentError: there is no experiment in `folder`, or a file in it is damaged.
    """
    folder = folder.resolve()
    require_experiment(folder)
    run = _document(folder / "run.json")
    _require_known(folder / "run.json", run)
    spec = _document(folder / "model_spec.json")
    final_path = folder / "final_results.json"
    final = _document(final_path) if final_path.exists() else None
    try:
        config = RunConfig.model_validate(run.get("config"))
        model = ModelSpec.model_validate(spec)
    except ValidationError as error:
        raise ExperimentError(
            f"{folder}: run.json or model_spec.json is damaged: {_first(error)}"
        ) from None
    return ExperimentRecord(
        folder=folder,
        config=config,
        run=run,
        spec=model,
        results=_read_results(folder),
        events=tuple(read_events(folder / "events.jsonl")),
        final=final,
    )


def state_of(record: ExperimentRecord) -> State:
    """Whether a process is at work in the folder, and if not, whether the run came to its end."""
    return state_in(record.folder)


def lock(folder: Path) -> int:
    """Claim the folder (created if need be) for this process until it ends, however it ends.

    Raises:
        ConfigError: the folder cannot be written.
        ExperimentError: its name is not usable, or another process is running this experiment.
    """
    import fcntl

    if not _NAME.match(folder.name):
        raise ExperimentError(
            f"experiment name {folder.name!r}: use letters, digits, '.', '_' and '-'"
        )
    with clear_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ExperimentError(
            f"{folder.name}: another process is running this experiment; wait for it, "
            "or choose another --experiment-name"
        ) from None
    return handle
