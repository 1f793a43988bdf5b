"""Experiment folders: written, interrupted, read back, damaged, locked."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from paredown.errors import ExperimentError
from paredown.spec.model import ModelSpec
from paredown.spec.result import Failure, FailureKind, Measurement, TrialResult
from paredown.spec.run import RunConfig
from paredown.spec.strategy import Strategy, parse_strategy
from paredown.spec.units import Unit
from paredown.store.experiment import (
    Experiment,
    is_experiment,
    lock,
    read_experiment,
)
from paredown.store.history import HISTORY_FIELDS, write_history
from tests.report.report_samples import spec as sample_spec

CONFIG = RunConfig(model="demo", episodes=3)
STRATEGY = parse_strategy("rtn(bits=4)")


def result(episode: int, strategy: Strategy | None = STRATEGY, **changes: object) -> TrialResult:
    settings = {
        "episode": episode,
        "strategy": strategy,
        "label": "baseline" if strategy is None else str(strategy),
        "kind": "baseline" if strategy is None else "quantization",
        "status": "ok",
    }
    return TrialResult.model_validate(settings | changes)


@pytest.fixture
def spec() -> ModelSpec:
    return sample_spec()


@pytest.fixture
def experiment(tmp_path: Path, spec: ModelSpec) -> Experiment:
    return Experiment.create(tmp_path / "runs" / "first", CONFIG, spec, {"versions": {"x": "1"}})


def test_a_new_experiment_reads_back(experiment: Experiment, spec: ModelSpec) -> None:
    record = read_experiment(experiment.folder)
    assert record.name == "first"
    assert record.config == CONFIG
    assert record.spec == spec
    assert record.run["versions"] == {"x": "1"}
    assert record.results == ()
    assert record.baseline is None
    assert record.final is None


def test_finished_episodes_read_back_in_order(experiment: Experiment) -> None:
    made = [result(0, None), *(result(i) for i in (1, 2, 10))]
    for one in reversed(made):
        experiment.begin(one.episode, one.strategy)
        experiment.finish(one)
    experiment.events.add("ended")
    record = read_experiment(experiment.folder)
    assert record.results == tuple(made)
    assert record.baseline == made[0]
    assert record.trials == tuple(made[1:])
    assert [e["event"] for e in record.events] == ["ended"]
    assert experiment.results() == tuple(made)
    assert experiment.episode(10).name == "episode_010"


def test_a_kill_leaves_the_episode_in_flight(experiment: Experiment) -> None:
    assert experiment.in_flight() == ()
    experiment.begin(0, None)
    assert experiment.in_flight() == ()  # the baseline is simply measured again
    experiment.finish(result(0, None))
    experiment.begin(1, STRATEGY)
    again = Experiment(experiment.folder)
    assert again.in_flight() == ((1, STRATEGY),)
    again.finish(result(1))
    assert again.in_flight() == ()


def test_other_folders_are_not_episodes(experiment: Experiment) -> None:
    (experiment.folder / "episode_old").mkdir()
    (experiment.folder / "episode_1.partial").mkdir()
    assert experiment.in_flight() == ()
    assert experiment.results() == ()


def test_history_has_a_row_per_episode(experiment: Experiment) -> None:
    ppl = Measurement(
        name="perplexity", value=12.5, unit=Unit.PERPLEXITY, n=4, stderr=0.1, lower_is_better=True,
        source="measured", how="x",
    )  # fmt: skip
    failure = Failure(kind=FailureKind.TIMEOUT, message="took, too long", stage="compress")
    rows = (
        result(0, None, measurements=(ppl,), accuracy=0.25),
        result(1, status="failed", failure=failure),
        result(2, unmet=("memory 3 GB > 2 GB", "ratio 1 x < 2 x")),
    )
    write_history(experiment.folder, rows, {0, 2})
    with (experiment.folder / "search_history.csv").open() as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == HISTORY_FIELDS
    assert [r["on_front"] for r in read] == ["1", "0", "1"]
    assert read[0]["perplexity"] == "12.5"
    assert read[0]["accuracy"] == "0.25"
    assert read[1]["failure"] == "timeout: took, too long"
    assert read[1]["strategy"] == "rtn(bits=4)"
    assert read[2]["unmet"] == "memory 3 GB > 2 GB; ratio 1 x < 2 x"
    assert read[2]["latency_ms"] == ""


@pytest.mark.parametrize("name", ["with blank", ".hidden", "a:b", "-x"])
def test_names_that_are_no_folder_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExperimentError, match="use letters, digits"):
        lock(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_folder_that_is_no_experiment_names_the_nearest(experiment: Experiment) -> None:
    wrong = experiment.folder.with_name("frist")
    assert not is_experiment(wrong)
    with pytest.raises(ExperimentError, match=r"no run\.json.*did you mean 'first'"):
        read_experiment(wrong)


def test_a_newer_schema_is_refused(experiment: Experiment) -> None:
    path = experiment.folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(ExperimentError, match=r"newer paredown \(schema 99\); please upgrade"):
        read_experiment(experiment.folder)


@pytest.mark.parametrize("file", ["run.json", "model_spec.json"])
@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"config": {"model": "x", "bits": 4}}'])
def test_a_damaged_file_is_named(experiment: Experiment, file: str, content: str) -> None:
    (experiment.folder / file).write_text(content)
    with pytest.raises(ExperimentError, match="damaged"):
        read_experiment(experiment.folder)


def test_a_missing_spec_is_named(experiment: Experiment) -> None:
    (experiment.folder / "model_spec.json").unlink()
    with pytest.raises(ExperimentError, match=r"model_spec\.json"):
        read_experiment(experiment.folder)


def test_a_damaged_result_is_named(experiment: Experiment) -> None:
    experiment.begin(1, STRATEGY)
    experiment.finish(result(1))
    (experiment.episode(1) / "results.json").write_text('{"episode": 1')
    with pytest.raises(ExperimentError, match=r"damaged: .*delete the folder episode_001"):
        read_experiment(experiment.folder)


def test_a_result_of_a_newer_version_is_refused(experiment: Experiment) -> None:
    experiment.begin(1, STRATEGY)
    experiment.finish(result(1))
    path = experiment.episode(1) / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(ExperimentError, match="newer paredown"):
        read_experiment(experiment.folder)


def test_strategies_of_the_first_version_are_read(experiment: Experiment) -> None:
    experiment.begin(1, STRATEGY)
    path = experiment.episode(1) / "strategy.json"
    document = json.loads(path.read_text())
    assert document["schema_version"] == 1
    assert experiment.in_flight() == ((1, STRATEGY),)
    path.write_text(json.dumps(document["strategy"]))
    assert experiment.in_flight() == ((1, STRATEGY),)


def test_a_damaged_strategy_is_named(experiment: Experiment) -> None:
    experiment.begin(1, STRATEGY)
    path = experiment.episode(1) / "strategy.json"
    path.write_text('{"steps": [')
    with pytest.raises(ExperimentError, match=r"strategy\.json cannot be read"):
        experiment.in_flight()


def test_only_one_process_runs_an_experiment(experiment: Experiment) -> None:
    handle = lock(experiment.folder)
    with pytest.raises(ExperimentError, match="first: another process is running"):
        lock(experiment.folder)
    os.close(handle)
    os.close(lock(experiment.folder))
