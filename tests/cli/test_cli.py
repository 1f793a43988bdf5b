"""The command line as users meet it: help, one-line errors, exit codes, settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paredown.cli.settings import read_settings
from paredown.cli.table import Table
from paredown.errors import ConfigError
from paredown.spec.run import RunConfig
from paredown.testing.tiny import tiny_model

RUN = Table.of(RunConfig, "PAREDOWN_RUN_")
TWICE = "rtn(group_size=32) > rtn(group_size=32)"


def paredown(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "paredown", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("cli") / "model")


def test_help_names_every_command(tmp_path: Path) -> None:
    shown = paredown("--help", cwd=tmp_path)
    assert shown.returncode == 0
    for command in ("run", "spec", "compress", "evaluate", "analyze", "methods", "runtimes"):
        assert f" {command} " in shown.stdout


def test_help_and_planning_import_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from paredown.cli import main\n"
        "import paredown.api, paredown.coordinate.run, paredown.methods.registry as r\n"
        "[r.load(n) for n in r.names()]\n"
        "heavy = {'torch', 'transformers', 'optuna', 'langgraph', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run"], "which model?"),
        (["run", "-m", "nosuch"], "there is no such folder"),
        (["methods", "gptqq"], "did you mean 'gptq'"),
        (["runtimes", "vlm"], "did you mean 'vllm'"),
        (["analyze", "nosuch"], "is no experiment folder"),
        (["run", "-m", "x", "--config", "no.yaml"], "there is no such file"),
        (["run", "-m", "x", "--episodes", "0"], "episodes = 0"),
        (["compress", "-m", "MODEL", "-s", "gptq(bit=4)", "-o", "o"], "did you mean 'bits'"),
        (["compress", "-m", "MODEL", "-s", "rtn(group_size=48)", "-o", "o"], "do not divide"),
        (["compress", "-m", "MODEL", "-s", "rtn >", "-o", "o"], "cannot read the strategy"),
        (["compress", "-m", "MODEL", "-s", TWICE, "-o", "o"], "quantized only once"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    tmp_path: Path, model: Path, words: list[str], expected: str
) -> None:
    done = paredown(*(str(model) if w == "MODEL" else w for w in words), cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_compress_and_evaluate(tmp_path: Path, model: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Line {i} of {i * i} and {i % 7}. " * 30 for i in range(200)))
    built = paredown(
        "compress", "-m", str(model), "-s", "rtn(group_size=32)", "-o", "art", "-d", str(text),
        "--json", cwd=tmp_path,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    document = json.loads(built.stdout)
    files = sum(f.stat().st_size for f in (tmp_path / "art").glob("*.safetensors"))
    assert document["size_bytes"] == files
    measured = paredown(
        "evaluate", "art", "-d", str(text), "--tokens", "512", "-o", "res", "--json",
        "--grid", "8x1", cwd=tmp_path,
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    result = json.loads(measured.stdout)
    assert result == json.loads((tmp_path / "res" / "results.json").read_text())
    names = {m["name"] for m in result["measurements"]}
    assert {"perplexity", "kl", "perplexity_ratio", "decode_latency", "peak_memory"} <= names


def test_command_line_wins_over_environment_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: from-file\nepisodes: 1\nseed: 1\nlimits:\n  min_speedup: 1.5\n")
    monkeypatch.setenv("PAREDOWN_RUN_EPISODES", "2")
    monkeypatch.setenv("PAREDOWN_RUN_SEED", "2")
    config = read_settings(RUN, {"seed": 3, "limits": {"target_ratio": 2.0}}, file)
    assert (config.model, config.episodes, config.seed) == ("from-file", 2, 3)
    assert (config.limits.min_speedup, config.limits.target_ratio) == (1.5, 2.0)


def test_a_misspelt_setting_in_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: demo\nepisoodes: 1\n")
    with pytest.raises(ConfigError, match="no setting 'episoodes'; did you mean 'episodes'"):
        read_settings(RUN, {}, file)
