"""Damaged records: whatever has become of a file, one line that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from paredown.errors import ExperimentError
from paredown.store.experiment import Experiment, read_experiment
from tests.report.report_samples import spec as sample_spec
from tests.store.test_experiment import CONFIG, STRATEGY, result

FILES = (
    "run.json", "model_spec.json", "events.jsonl", "final_results.json", "episode_001/results.json",
)  # fmt: skip


def deep(file: Path) -> None:
    file.write_text("[" * 100_000 + "\n")


def nan(file: Path) -> None:
    file.write_text('{"event": "x", "time": NaN}\n')


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def binary(file: Path) -> None:
    file.write_bytes(bytes(range(256)) + b"\n")


def digits(file: Path) -> None:
    file.write_text('{"event": "x", "time": ' + "9" * 10_000 + "}\n")


def another_kind(file: Path) -> None:
    file.write_text("[1, 2]\n")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    experiment = Experiment.create(tmp_path / "run", CONFIG, sample_spec(), {})
    experiment.events.add("start")
    experiment.begin(1, STRATEGY)
    experiment.finish(result(1))
    (experiment.folder / "final_results.json").write_text("{}\n")
    return experiment.folder


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [deep, nan, folder, binary, digits, another_kind])
def test_damage_is_one_line_with_the_files_name(
    run: Path, name: str, damage: Callable[[Path], None]
) -> None:
    read_experiment(run)
    damage(run / name)
    with pytest.raises(ExperimentError, match=Path(name).name) as caught:
        read_experiment(run)
    assert "\n" not in str(caught.value)


def test_the_version_of_a_record_is_a_number(run: Path) -> None:
    (run / "run.json").write_text('{"schema_version": "new"}')
    with pytest.raises(ExperimentError, match="schema_version is no whole number"):
        read_experiment(run)


def test_a_damaged_strategy_in_flight(run: Path) -> None:
    experiment = Experiment(run)
    experiment.begin(2, STRATEGY)
    (run / "episode_002" / "strategy.json").write_text("[" * 5000)
    with pytest.raises(ExperimentError, match=r"strategy\.json cannot be read"):
        experiment.in_flight()
