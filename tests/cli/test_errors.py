"""What is wrong is one line on standard error and exit code 2, whoever finds it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import paredown
from paredown.cli import main
from paredown.cli.table import Table
from paredown.errors import ConfigError, MethodError
from paredown.report.escape import LONGEST, escaped, one_line
from paredown.spec.explain import checked, short
from paredown.spec.requests import CompressRequest, EvaluateRequest
from paredown.spec.run import EvaluateConfig, RunConfig
from tests.cli.asked import say

FLOATS = [s for s in Table.of(RunConfig, "PAREDOWN_RUN_").settings if float in s.types and s.flags]


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """The one line that a command line is refused with."""
    said = say(capsys, *words)
    assert (said.code, said.out) == (code, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("run --epsodes 3", "paredown run: no option --epsodes; did you mean --episodes?"),
        ("run --zzzzzz", "paredown run: no option --zzzzzz; see paredown run --help"),
        ("run -Z", "paredown run: no option -Z; see paredown run --help"),
        ("rnu -m demo", "paredown: no command 'rnu'; did you mean run?"),
        ("skills lst", "paredown skills: no command 'lst'; did you mean list?"),
        ("--versoin", "paredown: no option --versoin; did you mean --version?"),
        ("run -m", "option '-m' requires an argument"),
        ("run -m demo extra", "got unexpected extra argument"),
        ("compress -m demo -o x", "missing option '--strategy'"),
        ("analyze", "missing argument 'folder'"),
        ("analyze x --format yaml", "'yaml' is not one of"),
        ("spec -m demo --batch many", "invalid value for '--batch'"),
        ("run", "which model? give -m TEXT: local folder, hub name"),
        ("evaluate", "which model? give MODEL"),
        ("compress -s rtn -o x", "which model?"),
        ("run -m dmeo", "did you mean 'demo'?"),
        ("run -m demo --device gpu", "did you mean 'cuda'?"),
        ("compress -m demo -s rtn -o x --device gpu", "did you mean 'cuda'?"),
        ("evaluate demo --device gpu", "did you mean 'cuda'?"),
        ("run -m demo --device cdua", "did you mean 'cuda'?"),
        ("run -m demo --policy rondom", "did you mean 'random'?"),
        ("run -m demo --objectives size,size", "'size' is named twice"),
        ("run -m demo --methods ,", "methods = "),
        ("run -m demo -e 2.5", "episodes = 2.5: Input should be a valid integer"),
        ("run -m demo -e many", "episodes = 'many': Input should be a valid integer"),
        ("run -m demo --llm-price -1,-1", "llm.price.0 = '-1': Input should be greater than"),
        ("run -m demo --llm-share 1.5", "llm.share = 1.5: Input should be less than or equal"),
        ("run -m demo --llm-share 0", "llm.share = 0: Input should be greater than 0"),
        ("run -m demo --llm-share nan", "llm.share = nan: Input should be a finite number"),
        ("run -m demo --llm-budget 2eur", "give tokens as in 200000, or money as in 2usd"),
        ("run -m demo --eval-grid 3by4", "as in '32,128,512x1,4', or 'off'"),
        ("run -m demo --interactive --json", "leave out --quiet and --json"),
        ("run -m demo -n ../../x", "experiment name '../../x'"),
        ("run -m demo -n /abs", "experiment name '/abs'"),
        ("run -m demo -n a/b", "experiment name 'a/b'"),
        ("run -m demo -n .", "experiment name '.'"),
        ("run -m demo -n ..", "experiment name '..'"),
        ("run -m demo -n -x", "experiment name '-x'"),
    ],
)  # fmt: skip
def test_one_line(
    words: str,
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, *words.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a\nb", "", " ", "x" * 101, "a\x00b", "é/..", "\x1b[31m"])
def test_a_name_is_no_path(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "experiment name" in refused(capsys, "run", "-m", "demo", "-n", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("setting", FLOATS, ids=lambda s: s.flags[0])
@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e999"])
def test_numbers_are_finite(
    setting: Any, text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = refused(capsys, "run", "-m", "demo", f"{setting.flags[0]}={text}")
    assert line.startswith(".".join(setting.path))
    assert "finite number" in line
    file = tmp_path / "run.json"
    value: Any = text  # JSON has no such number: as a text it is one for pydantic
    for name in reversed(setting.path):
        value = f'{{"{name}": {value if value.startswith("{") else repr(value)}}}'
    file.write_text(value.replace("'", '"'))
    assert "finite number" in refused(capsys, "run", "-m", "demo", "-c", str(file))


def test_every_number_is_looked_at() -> None:
    assert len(FLOATS) >= 13  # a table that found none would let the test above pass


FILES: dict[str, tuple[str, bytes]] = {
    "deep.json": ("nested too deep", b"[" * 100_000),
    "deep.yaml": ("nested too deep", b"[" * 20_000),
    "utf16.yaml": ("UTF-16", "model: demo\n".encode("utf-16")),
    "latin.yaml": ("not UTF-8", "model: größe\n".encode("latin-1")),
    "binary.yaml": ("not UTF-8", bytes(range(128, 256))),
    "list.yaml": ("must hold settings by name", b"- a\n- b\n"),
    "empty.yaml": ("must hold settings by name", b""),
    "broken.yaml": ("broken.yaml", b"a: [1, 2"),
    "broken.json": ("no JSON", b"{"),
    "number.yaml": ("1 is no name of a setting", b"1: 2\n"),
    "inner.yaml": ("None is no name of a setting", b"evaluate: {~: 3}\n"),
    "typo.yaml": ("no setting 'evaluate.tokns'; did you mean 'tokens'?", b"evaluate: {tokns: 9}"),
    "group.yaml": ("evaluate", b"evaluate: 3\n"),
    "tag.yaml": ("tag.yaml", b"model: !!python/object/apply:os.getcwd []\n"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_meant(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    expected, data = FILES[name]
    (tmp_path / name).write_bytes(data)
    line = refused(capsys, "run", "-m", "demo", "--config", str(tmp_path / name))
    assert expected in line
    assert len(line) < 500


def test_a_folder_or_nothing_as_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "a folder" in refused(capsys, "run", "-c", str(tmp_path))
    assert "no such file" in refused(capsys, "run", "-c", str(tmp_path / "no.yaml"))
    assert "too long" in refused(capsys, "run", "-c", "x" * 5000)


def test_a_misspelt_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAREDOWN_RUN_EVALUATE__TOKNES", "600")
    line = refused(capsys, "run", "-m", "demo")
    assert "PAREDOWN_RUN_EVALUATE__TOKNES sets nothing" in line
    assert line.endswith("did you mean PAREDOWN_RUN_EVALUATE__TOKENS?")


@pytest.mark.parametrize("option", ["-m", "--policy", "--eval-grid", "--llm-budget", "-n"])
def test_long_input_is_not_repeated(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(refused(capsys, "run", "-m", "demo", option, "x" * 100_000)) <= LONGEST + 10


def test_the_key_in_an_address_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for url in ("http://me:sk-secret@host/v1", "ftp://sk-secret"):
        assert "sk-secret" not in refused(capsys, "run", "-m", "demo", "--llm-url", url)


def test_the_line_and_the_call_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "run", "-m", "demo", "-e", "0", "--target-ratio", "0.5")
    with pytest.raises(ConfigError) as found:
        paredown.optimize("demo", episodes=0, limits={"target_ratio": 0.5})
    assert str(found.value) == line


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (paredown.compress, {"model": "demo", "strategy": "rtn", "output": "o", "device": None},
         "device = None: Input should be 'auto', 'cpu' or 'cuda'"),
        (paredown.compress, {"model": 5, "strategy": "rtn", "output": "o"}, "model = 5"),
        (paredown.compress, {"model": "demo", "strategy": 3, "output": "o"}, "strategy = 3"),
        (paredown.evaluate, {"model": "demo", "data": []}, "data = []"),
        (paredown.evaluate, {"model": "demo", "data": [3]}, "data = 3"),
        (paredown.evaluate, {"model": "demo", "config": 3}, "config = 3"),
        (paredown.optimize, {"model": "demo", "data": []}, "data = []"),
        (paredown.optimize, {"model": "demo", "data": [1]}, "data = [1]"),
        (paredown.optimize, {"model": "demo", "objectives": []}, "objectives = []"),
        (paredown.optimize, {"model": "demo", "objectives": ["size", "size"]}, "named twice"),
        (paredown.optimize, {"model": "demo", "llm": {"price": [-1, -1]}}, "llm.price.0 = -1"),
        (paredown.optimize, {"model": "demo", "budget_h": float("inf")}, "budget_h = inf"),
        (paredown.optimize, {"model": "demo", "resume": "no"}, "resume = 'no'"),
        (paredown.optimize, {"model": "demo", "output_dir": None}, "output_dir = None"),
        (paredown.optimize, {"model": "demo", "experiment_name": "a/b"}, "experiment name 'a/b'"),
        (paredown.optimize, {"model": "demo", "listen": "me"}, "listen = 'me'"),
        (paredown.optimize, {"model": "demo", "episods": 2}, "did you mean 'episodes'?"),
        (paredown.load, {"path": None}, "path = None"),
    ],
)  # fmt: skip
def test_the_api_refuses_what_the_command_line_refuses(
    function: Any, arguments: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as found:
        function(**arguments)
    assert expected in str(found.value)


def test_a_config_as_a_dictionary_is_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    from paredown import api

    seen: list[object] = []
    monkeypatch.setattr(api, "check_benchmarks", lambda config, _: seen.append(config))
    monkeypatch.setattr(api, "check_text", lambda *_: 1 / 0)  # far enough
    with pytest.raises(ZeroDivisionError):
        paredown.evaluate("demo", config={"tokens": 600})  # type: ignore[arg-type]
    assert seen == [EvaluateConfig(tokens=600)]


def test_settings_of_one_job_leave_out_what_only_an_experiment_has() -> None:
    for kind in (CompressRequest, EvaluateRequest):
        for name in ("screen", "stop_loss", "episodes"):
            with pytest.raises(ConfigError, match="no setting"):
                checked(kind, {"model": "m", name: 4.0})


def test_failures_and_the_system_have_their_own_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: BaseException) -> None:
        def raising(*_: object) -> None:
            raise error

        monkeypatch.setattr("paredown.store.experiment.state_of", raising)
        monkeypatch.setattr("paredown.store.experiment.read_experiment", lambda _: None)
        monkeypatch.setattr("paredown.report.findings.find", lambda _: None)

    fail(MethodError("did not\nconverge"))
    assert refused(capsys, "analyze", "x", code=1) == "did not converge"
    fail(OSError(36, "File name too long", "some/file"))
    assert refused(capsys, "analyze", "x", code=1) == "some/file: File name too long"
    fail(KeyboardInterrupt())
    assert say(capsys, "analyze", "x").code == 130


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paredown.store.experiment.read_experiment", lambda _: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["paredown", "analyze", "x"])
    with pytest.raises(ZeroDivisionError):
        main.main()


def test_words_are_escaped_and_cut() -> None:
    assert escaped("a\x1b[31mb\r\x07\u202e\udcff größe 日本\n") == (
        "a\\x1b[31mb\\r\\x07\\u202e\\udcff größe 日本\n"
    )
    cut = one_line("a" * 5000 + "\n" + "b" * 5000)
    assert len(cut) <= LONGEST + 10
    assert cut.startswith("a")
    assert cut.endswith("b")
    bomb: Any = ["x" * 1000] * 1000
    for _ in range(30):
        bomb = [bomb, bomb]  # 2^30 values, if it were walked
    assert len(short(bomb)) < 500


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    command = f"{sys.executable} -m paredown methods --json | head -c 10"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False,
        cwd=tmp_path,
    )  # fmt: skip
    assert len(done.stdout) == 10
    assert done.stderr == ""
