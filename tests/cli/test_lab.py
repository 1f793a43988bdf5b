"""`paredown lab` as a user calls it; what the stages do is tested in tests/lab."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from paredown.cli.lab import lab
from paredown.errors import ConfigError
from paredown.lab import road
from paredown.lab.advice import Advice
from paredown.lab.road import Outcome
from paredown.spec.lab import LabConfig

app = typer.Typer()
app.command()(lab)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text("model: demo\n")
    return path


def run(*words: str) -> Any:
    return CliRunner().invoke(app, [*words])


def stand_in(monkeypatch: pytest.MonkeyPatch, outcome: Outcome | BaseException) -> dict[str, Any]:
    """Instead of the road: what it was asked for."""
    asked: dict[str, Any] = {}

    def go(config: LabConfig, folder: Path, **more: Any) -> Outcome:
        asked.update(config=config, folder=folder, **more)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(road, "run_lab", go)
    return asked


def test_what_is_asked_for_arrives_and_what_was_found_is_said(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advice = Advice(verdict="pilot", reasons=(), risks=(), monitors=())
    done = Outcome(
        folder=Path("x"), advice=advice, reports=(Path("x/r.md"),), headline="Try it first."
    )
    asked = stand_in(monkeypatch, done)
    found = run(str(file), "--stage", "2", "--lang", "ja")
    assert "Try it first.\nreport: x/r.md\n" in found.stdout
    assert (asked["config"].lang, asked["only"]) == ("ja", "design")
    assert asked["folder"] == Path("data/labs/mine")
    document = json.loads(run(str(file), "-o", "there", "--json").stdout)
    assert (document["verdict"], document["reports"]) == ("pilot", ["x/r.md"])
    assert asked["folder"] == Path("there")


def test_a_stage_that_is_not_the_last_says_how_to_go_on(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, Outcome(folder=Path("x")))
    assert f"paredown lab {file} goes on" in run(str(file), "--stage", "analysis").stdout


def test_an_interrupt_says_how_to_go_on(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, KeyboardInterrupt())
    found = run(str(file), "-o", "a b")
    assert found.exit_code == 130
    assert f"To go on: paredown lab {file} -o 'a b'" in found.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.yaml",), "nowhere.yaml: there is no such file"),
        (("mine.yaml", "--stage", "5"), "--stage '5': no such stage"),
        (("mine.yaml", "--lang", "fr"), "lang = 'fr'"),
    ],
)
def test_a_wrong_request_is_one_line(file: Path, words: tuple[str, ...], said: str) -> None:
    found = run(*words)
    assert isinstance(found.exception, ConfigError)
    assert said in str(found.exception)
