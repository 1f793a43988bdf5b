"""MLflow is told what an experiment's folder says, once, and catches up with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paredown.errors import ExperimentError, TrackingError
from paredown.report.write import write_report
from paredown.spec.reading import read_json
from paredown.spec.result import TrialResult
from paredown.store.experiment import ExperimentRecord
from paredown.track.mlflow import MlflowTracker, Synced
from tests.cli.asked import say
from tests.report.report_samples import failed, ok, record, several

mlflow = pytest.importorskip("mlflow")


def runs(done: Synced) -> list[Any]:
    """The runs of all episodes, in their order."""
    client = mlflow.MlflowClient(tracking_uri=done.uri)
    where = client.get_experiment_by_name(done.experiment).experiment_id
    found = client.search_runs([where], f"tags.`mlflow.parentRunId` = '{done.run_id}'")
    return sorted(found, key=lambda run: int(run.data.tags["paredown.episode"]))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the database of all tests here: making one takes seconds."""
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture
def tracker(store: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowTracker:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return MlflowTracker(beside=store)


def experiment(folder: Path, results: tuple[TrialResult, ...], **more: Any) -> ExperimentRecord:
    folder.mkdir(parents=True, exist_ok=True)
    return record(folder, results, **more)


def test_a_run_for_the_experiment_and_one_for_every_episode(
    tracker: MlflowTracker, tmp_path: Path
) -> None:
    done = tracker.sync(experiment(tmp_path / "one", several()))
    assert done.added == (0, 1, 2, 3, 4, 5)
    assert done.uri.startswith("sqlite:///")
    found = runs(done)
    gptq = found[2]
    assert gptq.data.metrics["perplexity"] == several()[2].value("perplexity")
    assert gptq.data.metrics["size"] == several()[2].value("size")
    assert gptq.data.params["strategy"] == "gptq(bits=4)"
    assert gptq.data.params["1.gptq.bits"] == "4"
    assert found[3].data.params["1.l2_structured.ratio"] == "0.2"
    assert found[3].data.params["2.gptq.bits"] == "4"
    assert [run.info.status for run in found] == ["FINISHED"] * 5 + ["FAILED"]
    assert found[5].data.tags["paredown.failure"] == several()[5].failure.kind  # type: ignore[union-attr]
    assert several()[5].failure.message in found[5].data.tags["mlflow.note.content"]  # type: ignore[union-attr]


def test_what_is_there_is_left_alone_and_what_has_changed_is_told_anew(
    tracker: MlflowTracker, tmp_path: Path
) -> None:
    results = several()
    first = tracker.sync(experiment(tmp_path / "two", results[:3]))
    again = tracker.sync(experiment(tmp_path / "two", results[:3]))
    assert (again.run_id, again.added) == (first.run_id, ())
    further = results[1].model_copy(update={"evaluate_s": 99.0})  # judged on further items
    assert further != results[1]
    later = tracker.sync(experiment(tmp_path / "two", (results[0], further, *results[2:4])))
    assert (later.run_id, later.added) == (first.run_id, (1, 3))
    assert [run.data.tags["paredown.episode"] for run in runs(later)] == ["0", "1", "2", "3"]


def test_a_run_that_was_cut_off_in_the_middle_is_made_again(
    tracker: MlflowTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = experiment(tmp_path / "three", several()[:2])

    def broken(self: Any, run: str, name: str, value: str) -> None:
        raise OSError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_tag", broken)
        with pytest.raises(TrackingError, match="connection reset"):
            tracker.sync(kept)
    done = tracker.sync(kept)
    assert done.added == (0, 1)
    assert len(runs(done)) == 2


def test_the_report_and_the_recommendation_of_an_experiment_that_has_ended(
    tracker: MlflowTracker, tmp_path: Path
) -> None:
    folder = tmp_path / "four"
    ended = experiment(folder, several())
    write_report(ended, "all episodes are used")
    final = read_json(folder / "final_results.json")
    done = tracker.sync(replace(ended, final=final))
    client = mlflow.MlflowClient(tracking_uri=done.uri)
    parent = client.get_run(done.run_id)
    chosen = final["recommended"]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["paredown.recommended"] == (
        f"episode {chosen['episode']}: {chosen['label']}"
    )
    assert {file.path for file in client.list_artifacts(done.run_id)} >= {
        "report.md", "final_results.json", "pareto_visualization.html",
    }  # fmt: skip
    with pytest.raises(ExperimentError, match=r"no artifact was recommended|is gone"):
        tracker.register(replace(ended, final=final), "small")


@pytest.mark.slow
def test_an_artifact_that_was_recommended_is_registered(
    tracker: MlflowTracker, tmp_path: Path
) -> None:
    folder = tmp_path / "five"
    good = ok(1, "rtn(bits=8)", {"perplexity": 20, "size": 1}, artifact="episode_001/artifact")
    (folder / "episode_001" / "artifact").mkdir(parents=True)
    told = replace(
        experiment(folder, (several()[0], good)),
        final={"recommended": {"episode": 1}, "recommendation": "the smallest"},
    )
    assert tracker.register(told, "small-model") == "1"
    assert tracker.register(told, "small-model") == "2"
    client = mlflow.MlflowClient(tracking_uri=tracker.uri)
    version = client.get_model_version("small-model", "2")
    assert version.source.endswith("five/episode_001/artifact")
    assert version.description == "rtn(bits=8) of tiny. the smallest"


def test_a_tracker_that_cannot_be_reached_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = MlflowTracker("http://user:secret@127.0.0.1:9", beside=tmp_path)  # discard
    with pytest.raises(TrackingError, match="MLflow at") as found:
        away.sync(experiment(tmp_path / "six", (failed(1),)))
    assert "secret" not in str(found.value)
    assert "\n" not in str(found.value)


def test_export_says_what_it_needs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = say(capsys, "export", "mlflow", str(tmp_path / "nothing"))
    assert said.code == 2
    assert "nothing" in said.err
    said = say(capsys, "export", "wandb", str(tmp_path))
    assert said.code == 2
    assert "mlflow" in said.err
