"""The commands: exit codes, documents, and one line for what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from paredown.cli import main as program
from paredown.coordinate.deliver import artifact_folder
from paredown.deploy import bench, load
from paredown.errors import ConfigError
from paredown.store.atomic import write_json
from tests.cli.test_analyze import experiment, result
from tests.deploy.engines import make_package
from tests.deploy.fake import running
from tests.deploy.proofs import proof


def paredown(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["paredown", *words])
    with pytest.raises(SystemExit) as ended:
        program.main()
    return int(ended.value.code or 0)


def test_a_ready_server_is_0_and_another_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "proof.json", proof())
    against = ("--against", str(tmp_path / "proof.json"))
    with running("good") as url:
        assert paredown("check", url, *against, "--json", monkeypatch=monkeypatch) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["ready"]
    assert {fact["status"] for fact in document["facts"]} == {"passed", "not applicable"}
    with running("wrong model") as url:
        assert paredown("check", url, *against, monkeypatch=monkeypatch) == 1
    shown = capsys.readouterr().out
    assert "not ready: agreement" in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("check", "nowhere"), "'nowhere': give http://HOST:PORT, or the folder of a package"),
        (("check", "."), "is no package"),
        (("check", "http://h", "--against", "nowhere.json"), "no such file"),
        (("serve", "nowhere"), "is no package"),
        (("bench", "nowhere"), "give http://HOST:PORT"),
        (("bench", "http://a", "http://b", "http://c"), "two to compare; got 3"),
        (("bench", "http://a", "--concurrency", "many"), "give numbers with commas"),
        (("bench", "http://a", "--slo", "speed=1"), "--slo"),
        (("deploy", "nowhere", "-o", "out", "--to", "llama"), "no runtime is called 'llama'"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "program", lambda: ("true",))
    assert paredown(*words, monkeypatch=monkeypatch) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert shown.count("\n") == 1


def test_bench_without_guidellm_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    package = make_package(tmp_path / "p")
    assert paredown("bench", str(package), monkeypatch=monkeypatch) == 2
    assert "pip install 'paredown[bench]'" in capsys.readouterr().err


def test_an_episode_by_its_number(tmp_path: Path) -> None:
    kept = {"artifact": "episode_001/artifact"}
    folder = experiment(
        tmp_path / "first",
        result(0, "uncompressed", 1.0),
        result(1, "gptq(bits=4)", 0.5).model_copy(update=kept),
        result(2, "rtn(bits=4)", 0.6),
    )
    assert artifact_folder(f"{folder}#1") == folder / "episode_001/artifact"
    assert artifact_folder(str(folder)) == folder / "episode_001/artifact"  # the recommended one
    with pytest.raises(ConfigError, match="keeps no artifact of #2; it has #1"):
        artifact_folder(f"{folder}#2")
    with pytest.raises(ConfigError, match="keeps no artifact of #99; it has #1"):
        artifact_folder(f"{folder}#99")
    with pytest.raises(ConfigError, match="behind # goes the number"):
        artifact_folder(f"{folder}#two")
