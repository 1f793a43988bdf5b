"""Commands that are printed work when pasted; reports of experiments in every state."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import paredown
from paredown.cli.main import app
from paredown.coordinate import run as coordinate_run
from paredown.errors import ConfigError
from paredown.report.commands import compress_command, resume_command
from paredown.spec.run import RunConfig
from paredown.store.experiment import lock, read_experiment
from tests.cli.test_analyze import experiment, result
from tests.coordinate.test_run import settings


def paste(command: str) -> str:
    """What a printed command prints."""
    program, *words = shlex.split(command)
    assert program == "paredown"
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    return experiment(
        tmp_path / "my runs" / "one", result(0, "uncompressed", 1.0), result(1, "rtn", 0.5)
    )


def test_a_report_is_written_before_the_end_and_does_not_say_that_it_is_one(
    interrupted: Path,
) -> None:
    written = paste(shlex.join(["paredown", "report", str(interrupted)])).split("\n")
    assert str(interrupted / "report.md") in written
    text = (interrupted / "report.md").read_text()
    assert "it was interrupted; to go on: paredown resume" in text.replace("\\", "")
    assert not (interrupted / "final_results.json").exists()
    handle = lock(interrupted)
    try:
        paste(shlex.join(["paredown", "report", str(interrupted)]))
        assert "interrupted" not in (interrupted / "report.md").read_text()
    finally:
        import os

        os.close(handle)


def test_each_format_is_printed_and_nothing_is_written(interrupted: Path) -> None:
    before = sorted(interrupted.iterdir())
    shown = {
        name: paste(shlex.join(["paredown", "report", str(interrupted), "--format", name]))
        for name in ("md", "html", "csv", "json")
    }
    assert sorted(interrupted.iterdir()) == before
    assert shown["md"].startswith("# one\n")
    assert "</html>" in shown["html"]
    rows = list(csv.DictReader(io.StringIO(shown["csv"])))
    assert [row["strategy"] for row in rows] == ["uncompressed", "rtn"]
    assert json.loads(shown["json"])["state"] == "interrupted"


def test_resume_takes_its_request_from_the_folder(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[RunConfig, dict[str, Any]]] = []

    def run(config: RunConfig, **more: Any) -> Any:
        asked.append((config, more))
        return read_experiment(interrupted)

    monkeypatch.setattr(coordinate_run, "run_experiment", run)
    record = read_experiment(interrupted)
    paste(resume_command(record))
    paste(resume_command(record) + " --episodes 30 --quiet")
    (config, more), (longer, _) = asked
    assert config == record.config
    assert (more["name"], more["output_dir"], more["resume"]) == ("one", interrupted.parent, True)
    assert longer == record.config.model_copy(update={"episodes": 30})


def test_a_refused_request_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: Any) -> str:
        assert (tmp_path / "new" / "out" / "one").is_dir()
        raise ConfigError("the base cannot be measured")

    monkeypatch.setattr(coordinate_run, "_search", refuse)
    request: dict[str, Any] = settings(tmp_path)
    with pytest.raises(ConfigError, match="cannot be measured"):
        paredown.optimize(**request, experiment_name="one", output_dir=tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_the_command_that_makes_an_artifact_again_names_what_decides() -> None:
    config = RunConfig.model_validate(
        {"model": "m", "data": "a b.txt", "seed": 3, "calibration": {"samples": 9}}
    )
    command = compress_command(result(1, "gptq(bits=3)", 0.5), config)
    assert command == (
        "paredown compress -m m -s 'gptq(bits=3)' --data 'a b.txt' --samples 9 --seed 3 -o DIR"
    )


@pytest.mark.slow
def test_an_artifact_is_made_again_byte_for_byte(tmp_path: Path) -> None:
    request: dict[str, Any] = settings(tmp_path, episodes=1, methods=("gptq",), seed=5)
    front = paredown.optimize(**request, experiment_name="one", output_dir=tmp_path / "out")
    (trial,) = front.record.trials
    assert trial.artifact is not None
    command = compress_command(trial, front.record.config)
    paste(command.replace("-o DIR", f"-o {tmp_path / 'again'}"))
    first, second = (
        {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.glob("*.safetensors")}
        for folder in (front.folder / trial.artifact, tmp_path / "again")
    )
    assert first == second
