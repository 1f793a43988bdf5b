from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from paredown.cli.analyze import analyze
from paredown.errors import ExperimentError
from paredown.report.commands import resume_command
from paredown.report.write import write_report
from paredown.spec.model import ModelSpec
from paredown.spec.result import Failure, FailureKind, Measurement, TrialResult, flat_fields
from paredown.spec.run import RunConfig
from paredown.spec.strategy import parse_strategy
from paredown.spec.units import Unit
from paredown.store.experiment import Experiment, lock, read_experiment

app = typer.Typer()
app.command()(analyze)
UNITS = {
    "perplexity": Unit.PERPLEXITY,
    "size": Unit.BYTES,
    "decode_latency": Unit.MS_PER_TOKEN,
    "peak_memory": Unit.BYTES,
}


def result(episode: int, text: str, scale: float) -> TrialResult:
    values = zip(UNITS, (20 / scale**0.05, 270e6 * scale, 30 * scale, 900e6 * scale), strict=True)
    measured = tuple(
        Measurement(
            name=name,
            value=value,
            unit=UNITS[name],
            n=5 if name == "decode_latency" else 1,
            stderr=0.5 if name == "decode_latency" else None,
            lower_is_better=True,
            source="measured",
            how=f"protocol of {name}",
        )
        for name, value in values
    )
    return TrialResult(
        episode=episode,
        strategy=parse_strategy(text) if episode else None,
        label=text,
        kind="quantization" if episode else "baseline",
        status="ok",
        measurements=measured,
        wall_s=10.0,
        **flat_fields(measured),
    )


def failure(episode: int) -> TrialResult:
    return TrialResult(
        episode=episode,
        strategy=parse_strategy("rtn(bits=2)"),
        label="rtn(bits=2)",
        kind="quantization",
        status="failed",
        failure=Failure(kind=FailureKind.TIMEOUT, message="ran over 4.0 h", stage="evaluate"),
    )


def experiment(folder: Path, *results: TrialResult, **config: Any) -> Path:
    required = [name for name, field in ModelSpec.model_fields.items() if field.is_required()]
    tiny = dict.fromkeys(required) | {
        "schema_version": 1, "name": "tiny", "architecture": "A", "model_type": "llama",
        "family": "llama", "parameters": 1, "active_parameters": 1, "dtype": "BF16",
        "tied_embeddings": False, "unknown": (), "tensors": (),
    }  # fmt: skip
    request = RunConfig(**({"model": "demo"} | config))
    opened = Experiment.create(folder, request, ModelSpec.model_validate(tiny), {})
    for entry in results:
        opened.begin(entry.episode, entry.strategy)
        opened.finish(entry)
    opened.events.add("refused", strategy="gptq > rtn", reason="quantized only once")
    return folder


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    folder = experiment(
        tmp_path / "first",
        result(0, "uncompressed", 1.0),
        result(1, "gptq(bits=4)", 0.5),
        failure(2),
    )
    write_report(read_experiment(folder), "all episodes done")
    return folder


def run(folder: Path, *options: str) -> str:
    outcome = CliRunner().invoke(app, [str(folder), *options], catch_exceptions=False)
    assert outcome.exit_code == 0
    return outcome.stdout


def test_summary_shows_recommendation_front_and_counts(finished: Path) -> None:
    text = run(finished)
    assert "finished (2 of 10 episodes; all episodes done)" in text
    assert "Recommended: episode 1, gptq(bits=4)" in text
    assert "135.0 MB (2.00x smaller)" in text
    assert "episodes: 1 finished, 1 failed, 1 refused at planning" in text
    assert str(finished / "report.md") in text
    assert "protocol of" not in text


def test_detailed_shows_every_number_and_failure(finished: Path) -> None:
    text = run(finished, "--format", "detailed")
    for part in (
        "timeout in evaluate: ran over 4.0 h",
        "quantized only once",
        "protocol of decode_latency",
        "ms/token",
        "measured",
    ):
        assert part in text


def test_json_is_all_there_is_on_stdout(finished: Path) -> None:
    document = json.loads(run(finished, "--format", "json"))
    assert document["state"] == "finished"
    assert document["stop_reason"] == "all episodes done"
    assert document["recommended"]["episode"] == 1
    assert [e["episode"] for e in document["episodes"]] == [0, 1, 2]
    assert [e["episode"] for e in document["front"]] == [0, 1]
    assert document["episodes"][2]["failure"]["kind"] == "timeout"
    assert document["refused"] == [{"reason": "quantized only once", "strategies": ["gptq > rtn"]}]


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "second", result(0, "uncompressed", 1.0), model="my model")
    text = run(folder)
    assert "interrupted after 0 of 10 episodes" in text
    assert f"  paredown resume {folder}\n" in text
    assert resume_command(read_experiment(folder)) in text
    assert json.loads(run(folder, "-f", "json"))["state"] == "interrupted"


def test_a_running_experiment_is_told_by_its_lock(finished: Path) -> None:
    handle = lock(finished)
    try:
        assert "still running: 2 of 10 episodes so far" in run(finished)
        document = json.loads(run(finished, "-f", "json"))
        assert (document["state"], document["stop_reason"]) == ("running", None)
    finally:
        os.close(handle)
    assert "finished" in run(finished)


def test_looking_does_not_keep_the_run_from_its_lock(finished: Path) -> None:
    (finished / ".lock").touch()
    run(finished)
    handle = os.open(finished / ".lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(handle)


@pytest.mark.parametrize("results", [(), (failure(1),)])
def test_nothing_measured_yet(tmp_path: Path, results: tuple[TrialResult, ...]) -> None:
    folder = experiment(tmp_path / "third", *results)
    assert "No recommendation: no episode finished" in run(folder)
    assert "No recommendation" in run(folder, "-f", "detailed")
    assert json.loads(run(folder, "-f", "json"))["recommended"] is None


def test_limits_nobody_meets(tmp_path: Path) -> None:
    folder = experiment(
        tmp_path / "fourth", result(0, "uncompressed", 1.0), result(1, "rtn(bits=4)", 0.5),
        limits={"target_ratio": 4},
    )  # fmt: skip
    text = run(folder)
    assert "No recommendation: no result meets the limits" in text
    assert "--target-ratio 2" in text


def test_a_wrong_folder_is_one_clear_error(finished: Path) -> None:
    with pytest.raises(ExperimentError, match=r"did you mean 'first'"):
        CliRunner().invoke(app, [str(finished.parent / "frist")], catch_exceptions=False)
    outcome = CliRunner().invoke(app, [str(finished), "--format", "yaml"])
    assert outcome.exit_code == 2


def test_analyze_imports_neither_torch_nor_plotting(finished: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from paredown.cli.analyze import Format, analyze\n"
        "for shown in Format:\n"
        "    analyze(Path(sys.argv[1]), shown)\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'plotly', 'optuna'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_reports_are_written_without_torch(finished: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from paredown.report.write import write_report\n"
        "from paredown.store.experiment import read_experiment\n"
        "write_report(read_experiment(Path(sys.argv[1])), 'again')\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
