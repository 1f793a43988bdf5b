"""MLflow: a parent run per experiment, a child run per episode.

A tracker is brought level with what an experiment's folder says. That is the same while the run
goes on, after it, and after a server was away for hours; runs that are there already are left
alone. Identity is the name, the request, and the content of model and text, never a path.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from paredown.errors import ExperimentError, MissingExtraError, TrackingError
from paredown.spec.redact import redact
from paredown.spec.result import TrialResult
from paredown.spec.serial import content_hash
from paredown.store.experiment import ExperimentRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

URI, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
"""Environment variables that MLflow's own tools read as well."""
DEFAULT_EXPERIMENT = "paredown"
METRICS = (
    "perplexity", "kl", "benchmark_kl", "top1_agreement", "accuracy", "speedup", "decode_latency",
    "prefill_latency", "peak_memory", "size", "compression_ratio", "bits_per_weight", "energy",
)  # fmt: skip
"""Measurements that become metrics, under their own names and in their own units (docs/files.md);
the rest is in the run's results.json."""
FILES = (
    "report.md", "pareto_visualization.html", "search_space_analysis.png", "search_history.csv",
    "pareto_frontier.json", "final_results.json", "model_spec.json", "run.json",
)  # fmt: skip
EPISODE_FILES = ("results.json", "strategy.json", "worker.log")
_MAX_PARAM = 500
"""Characters of a parameter that every store of MLflow takes."""
_ROLE, _ID = "paredown.role", "paredown.id"
_EPISODE, _CONTENT = "paredown.episode", "paredown.content"


@dataclass(frozen=True)
class Synced:
    """What a tracker was told.

    Attributes:
        uri: of the tracker.
        experiment: its name there.
        run_id: of the parent run.
        added: episodes that were not there, or not as they are now.
    """

    uri: str
    experiment: str
    run_id: str
    added: tuple[int, ...]


@final
class MlflowTracker:
    """One tracker, and one experiment in it."""

    def __init__(self, uri: str | None = None, *, beside: Path) -> None:
        """A tracker at `uri`; None: as MLFLOW_TRACKING_URI says, else a SQLite file.

        Args:
            uri: `http://...`, or `sqlite:///FILE`.
            beside: folder of experiments; without any address mlflow.db is kept in it.

        Raises:
            MissingExtraError: mlflow is not installed.
        """
        if find_spec("mlflow") is None:
            raise MissingExtraError("tracking with MLflow", "mlflow", "mlflow")
        self.beside = beside.resolve()
        self.uri = uri or os.environ.get(URI) or f"sqlite:///{self.beside / 'mlflow.db'}"
        self.experiment = os.environ.get(EXPERIMENT) or DEFAULT_EXPERIMENT

    def sync(self, record: ExperimentRecord) -> Synced:
        """Bring the tracker level with an experiment, finished or not.

        Raises:
            TrackingError: the tracker does not answer, or refuses.
        """
        with self._client() as client:
            where = self._experiment_id(client)
            parent = _parent(client, where, record)
            known = _children(client, where, parent)
            added = []
            for result in record.results:
                content = content_hash(result)
                there = known.get(str(result.episode))
                if there is not None and there.data.tags.get(_CONTENT) == content:
                    continue
                if there is not None:  # it was judged on further items since
                    client.delete_run(there.info.run_id)
                _add_child(client, where, parent, record, result, content)
                added.append(result.episode)
            _finish_parent(client, parent, record)
        return Synced(self.uri, self.experiment, parent, tuple(added))

    def register(self, record: ExperimentRecord, name: str) -> str:
        """Register the recommended artifact under a name; returns its version there.

        Raises:
            ExperimentError: nothing was recommended, or its artifact is gone.
            TrackingError: the tracker does not answer, or refuses.
        """
        result = _recommended(record)
        if result is None or result.artifact is None:
            raise ExperimentError(f"{record.folder}: no artifact was recommended to be registered")
        folder = record.folder / result.artifact
        if not folder.is_dir():
            raise ExperimentError(f"{folder}: the recommended artifact is gone")
        self.sync(record)
        with self._client() as client:
            where = self._experiment_id(client)
            run = _children(client, where, _parent(client, where, record))[str(result.episode)]
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            said = f"{result.label} of {record.spec.name}"
            made: Any = client.create_model_version(
                name, source=folder.resolve().as_uri(), run_id=run.info.run_id,
                description=f"{said}. {(record.final or {}).get('recommendation') or ''}".strip(),
            )  # fmt: skip
        return str(made.version)

    @contextmanager
    def _client(self) -> Iterator[MlflowClient]:
        # Its own patience is minutes; whoever wants that has set it.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        # It tells of every table that it makes, above the run's own lines.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            yield MlflowClient(tracking_uri=self.uri)
        except (MlflowException, OSError) as error:
            lines = redact(str(error)).strip().splitlines() or [type(error).__name__]
            raise TrackingError(f"MLflow at {redact(self.uri)}: {lines[0][:160]}") from error

    def _experiment_id(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        # A server knows where artifacts go; a file would put them into the working folder.
        is_file = self.uri.startswith("sqlite:")
        place = (self.beside / "mlflow-artifacts").as_uri() if is_file else None
        return str(client.create_experiment(self.experiment, artifact_location=place))


def _parent(client: MlflowClient, where: str, record: ExperimentRecord) -> str:
    """The run of the experiment as a whole, made where there is none."""
    name = record.run.get("name") or record.name
    same = content_hash([record.run.get("content"), record.run.get("config"), name])
    found = client.search_runs([where], f"tags.`{_ID}` = '{same}' and tags.`{_ROLE}` = 'run'")
    if found:
        return str(found[0].info.run_id)
    model = record.run.get("model") or {}
    tags = {
        "mlflow.runName": name, _ROLE: "run", _ID: same,
        "paredown.model": str(model.get("name")), "paredown.base_sha256": str(model.get("sha256")),
        "paredown.version": str((record.run.get("versions") or {}).get("paredown")),
    }  # fmt: skip
    made = client.create_run(where, start_time=_started_ms(record), tags=tags)
    config = {name: value for name, value in record.config.model_dump(mode="json").items() if value}
    _log(client, made.info.run_id, params=config)
    return str(made.info.run_id)


def _children(client: MlflowClient, where: str, parent: str) -> dict[str, Run]:
    """The runs of episodes, by the number of the episode."""
    found: dict[str, Run] = {}
    token: str | None = None
    while True:
        page = client.search_runs(
            [where], f"tags.`mlflow.parentRunId` = '{parent}'", page_token=token
        )
        found |= {str(run.data.tags.get(_EPISODE)): run for run in page}
        token = page.token
        if not token:
            return found


def _add_child(
    client: MlflowClient, where: str, parent: str, record: ExperimentRecord, result: TrialResult,
    content: str,
) -> None:  # fmt: skip
    folder = record.folder / f"episode_{result.episode:03d}"
    told = folder / "results.json"
    end_ms = round(1e3 * told.stat().st_mtime) if told.exists() else _started_ms(record)
    tags = {
        "mlflow.runName": f"{result.episode}: {result.label}"[:250], "mlflow.parentRunId": parent,
        _ROLE: "episode", _EPISODE: str(result.episode), "paredown.kind": result.kind,
        "paredown.proposed_by": str(result.proposed_by), "paredown.status": result.status,
    }  # fmt: skip
    if result.strategy is not None:
        tags["paredown.strategy"] = str(result.strategy.hash)
    if result.failure is not None:
        tags["paredown.failure"] = result.failure.kind.value
        tags["mlflow.note.content"] = redact(result.failure.message)[:4000]
    start_ms = end_ms - round(1e3 * result.wall_s)
    made = client.create_run(where, start_time=start_ms, tags=tags)
    run = str(made.info.run_id)
    _log(client, run, params=_params(result), metrics=_metrics(result), at_ms=end_ms)
    for name in EPISODE_FILES:
        if (folder / name).is_file():
            client.log_artifact(run, str(folder / name))
    # Last, so that a run that was cut off in the middle is known as such and made again.
    client.set_tag(run, _CONTENT, content)
    is_ok = result.status == "ok"
    client.set_terminated(run, "FINISHED" if is_ok else "FAILED", end_time=end_ms)


def _finish_parent(client: MlflowClient, parent: str, record: ExperimentRecord) -> None:
    """The files and the outcome of an experiment that has ended."""
    if record.final is None:
        return
    for name in FILES:
        if (record.folder / name).is_file():
            client.log_artifact(parent, str(record.folder / name))
    result = _recommended(record)
    if result is not None:
        said = f"episode {result.episode}: {result.label}"
        client.set_tag(parent, "paredown.recommended", said[:4000])
        _log(client, parent, metrics=_metrics(result), at_ms=_ended_ms(record))
    client.set_tag(parent, "mlflow.note.content", str(record.final.get("recommendation") or ""))
    client.set_terminated(parent, "FINISHED", end_time=_ended_ms(record))


def _recommended(record: ExperimentRecord) -> TrialResult | None:
    chosen = ((record.final or {}).get("recommended") or {}).get("episode")
    return next((r for r in record.results if r.episode == chosen), None)


def _params(result: TrialResult) -> dict[str, Any]:
    """Parameters of every step, `1.gptq.bits`: the place, since a method may stand twice."""
    found: dict[str, Any] = {"strategy": result.label}
    for place, step in enumerate(() if result.strategy is None else result.strategy.steps, 1):
        for name, value in step.params.items():
            found[f"{place}.{step.method}.{name}"] = value
    return found


def _metrics(result: TrialResult) -> dict[str, float]:
    found = {name: value for name in METRICS if (value := result.value(name)) is not None}
    found |= {f"score.{score.name}": score.value for score in result.scores}
    return found | {"compress_s": result.compress_s, "wall_s": result.wall_s}


def _log(
    client: MlflowClient, run: str, *, params: dict[str, Any] | None = None,
    metrics: dict[str, float] | None = None, at_ms: int = 0,
) -> None:  # fmt: skip
    """In batches of what a server takes at once: 100 parameters, 1000 metrics."""
    from mlflow.entities import Metric, Param

    items = [Param(name, str(value)[:_MAX_PARAM]) for name, value in (params or {}).items()]
    for start in range(0, len(items), 100):
        client.log_batch(run, params=items[start : start + 100])
    told = [Metric(_plain(name), value, at_ms, 0) for name, value in (metrics or {}).items()]
    for start in range(0, len(told), 1000):
        client.log_batch(run, metrics=told[start : start + 1000])


def _plain(name: str) -> str:
    """Without the signs that MLflow takes in no name, such as the colon of lm-eval's tasks."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)


def _started_ms(record: ExperimentRecord) -> int:
    times = [event["time"] for event in record.events if "time" in event]
    return round(1e3 * times[0]) if times else round(1e3 * record.folder.stat().st_mtime)


def _ended_ms(record: ExperimentRecord) -> int:
    times = [event["time"] for event in record.events if "time" in event]
    return round(1e3 * times[-1]) if times else round(1e3 * record.folder.stat().st_mtime)
