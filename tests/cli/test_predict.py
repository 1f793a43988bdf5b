"""`paredown predict` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from paredown.cli.predict import predict
from paredown.errors import ConfigError
from paredown.spec.infer import infer_spec
from paredown.testing.tiny import tiny_model
from tests.coordinate.test_prediction import experiment

app = typer.Typer()
app.command()(predict)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(
        tiny_model(tmp_path_factory.mktemp("p") / "m", tokenizer=False, intermediate_size=128)
    )


def run(*words: str) -> Any:
    return CliRunner().invoke(app, [*words])


def said(*words: str) -> str:
    found = run(*words)
    assert found.exit_code == 0, found.exception
    return str(found.stdout)


def test_strategies_side_by_side_with_limits_and_a_choice(folder: str) -> None:
    found = json.loads(
        said("-m", folder, "-s", "rtn(bits=8)", "-s", "wanda", "-s", "gptq(group_size=48)",
             "--max-accuracy-loss", "5", "--device", "cpu", "--json")
    )  # fmt: skip
    eight, wanda = found["rows"]
    assert eight["strategy"] == "rtn(bits=8)"
    assert eight["quality_known_from"] == "known of SmolLM2-135M-Instruct"
    sources = {m["name"]: m["source"] for m in eight["measurements"]}
    assert sources["size"] == "derived"
    assert sources["peak_memory"] == sources["perplexity_ratio"] == "estimated"
    assert wanda["limits"][0]["state"] in {"broken", "undecided"}
    assert "do not divide into groups of 48" in found["refused"]["gptq(group_size=48)"]
    assert found["choice"] == "rtn(bits=8)"


def test_people_are_told_that_nothing_was_run(folder: str) -> None:
    text = " ".join(said("-m", folder, "-s", "rtn(bits=8)", "--device", "cpu").split())
    assert "Predicted, nothing was run" in text
    assert "By prediction alone" in text
    assert "paredown match --calibrate" in text
    unknown = said("-m", folder, "-s", "rtn(bits=7)", "--device", "cpu", "--json")
    assert json.loads(unknown)["rows"][0]["quality_known_from"] is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-s", "gptq(bit=4)"), "no parameter 'bit'"),
        (("-s", "gtpq"), "did you mean 'gptq'"),
        (("--context", "300"), "reads at most 256 tokens"),
        (("--plot", "x.png"), "--plot is of a history"),
        (("--history", "."), "leave out the model"),
        (("--target-ratio", "0.5"), "give 2"),
    ],
)
def test_what_is_refused_says_what_would_do(folder: str, words: tuple[str, ...], told: str) -> None:
    found = run("-m", folder, *words)
    assert isinstance(found.exception, ConfigError), found.exception
    assert told in str(found.exception)


def test_history_with_its_plot(folder: str, tmp_path: Path) -> None:
    experiment(tmp_path / "one", infer_spec(Path(folder)))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    plot = tmp_path / "plot.png"
    text = said("--history", str(tmp_path), "--plot", str(plot))
    assert "size, bytes" in text
    assert "left out: broken" in text
    assert plot.read_bytes().startswith(b"\x89PNG")
    document = json.loads(said("--history", str(tmp_path), "--json"))
    assert {s["name"] for s in document["summaries"]} >= {"size", "peak_memory"}
    assert all(p["covered"] for p in document["pairs"] if p["name"] == "size")
