"""What is printed: foreign words shown and not obeyed, lines of JSON, keys and pipes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.input import create_pipe_input
from rich.console import Console
from rich.table import Table
from rich.text import Text

from paredown import __version__
from paredown.cli.interactive import Prompt
from paredown.cli.lines import JsonLines
from paredown.cli.pipe import PipedLines
from paredown.report.console import make_console
from paredown.report.live import Display, RunProgress, StepProgress
from tests.cli.asked import say
from tests.cli.test_analyze import experiment, failure, result

HOSTILE = "[/b] [bold]x :smile: \x1b]0;title\x1b\\\x1b[2Jend"
SHOWN = HOSTILE.replace("\x1b", "\\x1b")


def printed(show: Callable[[Any], None], *, width: int = 100) -> str:
    out = io.StringIO()
    console = make_console(width=width, file=out)
    show(console)
    return out.getvalue()


def test_foreign_words_are_shown() -> None:
    assert printed(lambda c: c.print(HOSTILE)) == SHOWN + "\n"
    assert printed(lambda c: c.print(Text(HOSTILE))) == SHOWN + "\n"

    def table(console: Any) -> None:
        grid = Table(title=HOSTILE)
        grid.add_column(HOSTILE)
        grid.add_row(HOSTILE)
        console.print(grid)

    text = printed(table, width=200)
    assert text.count(SHOWN) == 3
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text


def test_colours_of_our_own_stay() -> None:
    assert "\x1b[1m" in printed(lambda c: c.print("bold", style="bold"))


def test_a_live_line_is_escaped_and_still_moves() -> None:
    def live(console: Any) -> None:
        progress = StepProgress(console)
        with progress:
            progress.watch("compress", 0.5, HOSTILE)
            progress.live.refresh()

    text = printed(live)
    # Words give way to the time, so of these only the beginning is shown.
    assert SHOWN[:30] in text
    assert "\x1b]0" not in text
    assert "\x1b[2K" in text  # rich's own: the line is erased at the end


@pytest.mark.parametrize("output", ["summary", "detailed"])
def test_a_record_with_strange_names(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = experiment(tmp_path / "e", result(0, HOSTILE, 1.0), failure(1), model=HOSTILE)
    said = say(capsys, "analyze", str(folder), "--format", output)
    assert said.code == 0
    assert SHOWN in said.out
    assert "\x1b" not in said.out


class _Told:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.changed = threading.Condition()

    def __call__(self, line: str) -> None:
        with self.changed:
            self.lines.append(line)
            self.changed.notify_all()

    def until(self, count: int) -> list[str]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.lines) >= count, 30), self.lines
        return self.lines


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("pau\x7fuse\r", ["pause"]),
        ("try rtn(bits=3) gptq\x17\r", ["try rtn(bits=3) "]),
        ("try rtn\x15stop\r", ["stop"]),
        ("zz\t\r", ["zz"]),
        ("one\rtwo\r\x1b[A\r", ["one", "two", "two"]),
        ("one\rtwo\r\x1b[A\x1b[A\r", ["one", "two", "one"]),
        ("größe\r\r", ["größe", ""]),
        ("a\x04b\r", ["ab"]),  # Ctrl-D within a line ends nothing
    ],
)
def test_keys_make_lines(keys: str, expected: list[str]) -> None:
    told = _Told()
    with create_pipe_input() as pipe:
        with Prompt(lambda: Text("the view"), told, width=lambda: 80, keys=pipe):
            *firsts, last = keys.split("\r")[:-1] if keys.endswith("\r") else [keys]
            for count, part in enumerate([*firsts, last], start=1):
                pipe.send_text(f"{part}\r")
                told.until(count)
        assert told.lines == expected


def test_tab_completes_what_is_clear() -> None:
    told = _Told()
    with (
        create_pipe_input() as pipe,
        Prompt(lambda: Text(""), told, width=lambda: 80, keys=pipe) as prompt,
    ):
        pipe.send_text("inc\t")
        end = time.monotonic() + 30  # words are looked up beside the typing
        while prompt.text != "include" and time.monotonic() < end:
            time.sleep(0.02)
        pipe.send_text(" rtn\r")
        told.until(1)
    assert told.lines == ["include rtn"]


def test_control_c_reaches_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append((process, number)))
    told = _Told()
    with (
        create_pipe_input() as pipe,
        Prompt(lambda: Text(""), told, width=lambda: 80, keys=pipe),
    ):
        pipe.send_text("half a line\x03")
        end = time.monotonic() + 30
        while not sent and time.monotonic() < end:
            time.sleep(0.02)
        pipe.send_text("status\r")
        told.until(1)
    assert sent == [(os.getpid(), 2)]
    assert told.lines == ["status"]


def test_a_pipe_gives_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    told, ended = _Told(), threading.Event()
    with os.fdopen(reading) as file:
        monkeypatch.setattr(sys, "stdin", file)
        with PipedLines(told, on_end=ended.set):
            os.write(writing, "größ".encode()[:-1])
            os.write(writing, "ße\n\nstop".encode()[1:])  # a letter cut in two
            assert told.until(2) == ["größe", ""]
            os.close(writing)
            assert ended.wait(30)
    assert told.lines == ["größe", "", "stop"]


def test_no_standard_input_is_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    ended = threading.Event()
    with PipedLines(_Told(), on_end=ended.set):
        assert ended.wait(30)


def test_events_as_lines() -> None:
    out = io.StringIO()
    lines = JsonLines(out)
    fields = {"episode": 1, "strategy": None, "reason": "two\nlines \x1b"}
    lines("decision", fields)
    lines("result", {"result": failure(1)})
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first == {"event": "decision", **fields}
    assert second["event"] == "result"
    assert second["result"]["failure"]["kind"] == "timeout"
    assert [r.episode for r in lines.results] == [1]


def test_only_the_end(tmp_path: Path) -> None:
    from paredown.store.experiment import read_experiment

    folder = experiment(tmp_path / "e", result(0, "uncompressed", 1.0), result(1, "rtn", 0.5))
    out = io.StringIO()
    lines = JsonLines(out, only_the_end=True)
    lines("decision", {"episode": 1})
    lines.end(read_experiment(folder))
    (only,) = map(json.loads, out.getvalue().splitlines())
    assert (only["event"], only["recommended"]["episode"]) == ("end", 1)


def test_progress_is_a_line_per_event(capsys: pytest.CaptureFixture[str]) -> None:
    progress = RunProgress(make_console(width=200), 3, ("quality", "size"))
    progress("earlier", {"results": [result(0, "uncompressed", 1.0)]})
    progress("decision", {"episode": 1, "action": "quantization", "reason": "first",
                          "strategy": failure(1).strategy.model_dump()})  # type: ignore[union-attr]  # fmt: skip
    progress("result", {"result": failure(1)})
    progress("decision", {"episode": 2, "action": "end", "reason": "enough", "strategy": None})
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "episode 1/3  rtn(bits=2)  (first)"
    assert shown[1].startswith("    failed: timeout: ran over 4.0 h")
    assert shown[2] == "end: enough"
    assert [r.episode for r in progress.results] == [1]
    quiet = Display()
    quiet("result", {"result": failure(1)})
    assert [r.episode for r in quiet.results] == [1]
    assert capsys.readouterr().out == ""


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert say(capsys, "-V") == say(capsys, "--version")
    assert say(capsys, "-V").out == f"paredown {__version__}\n"
    assert say(capsys).out == say(capsys, "--help").out
    assert say(capsys, "skills").out == say(capsys, "skills", "-h").out
    assert "forget" in say(capsys, "skills").out


def test_help_imports_nothing_that_takes_long(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from paredown.cli import main\n"
        "sys.argv = ['paredown', '--help']\n"
        "try:\n    main.main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "slow = {'rich', 'rich.markdown', 'yaml', 'numpy', 'torch', 'huggingface_hub', 'optuna'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
        "assert 'paredown.spec.run' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("run --policy ", {"portfolio", "random"}),
        ("run --methods rtn,g", {"rtn,gptq"}),
        ("run -d gsm", {"gsm8k"}),
        ("methods gp", {"gptq"}),
        ("compress -s gp", {"gptq"}),
        ("run --max-mem", {"--max-memory-gb"}),
        ("sp", {"spec"}),
    ],
)
def test_the_shell_completes(words: str, offered: set[str], tmp_path: Path) -> None:
    line = f"paredown {words}"
    done = subprocess.run(
        [sys.executable, "-m", "paredown"], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "_PAREDOWN_COMPLETE": "complete_bash", "COMP_WORDS": line,
             "COMP_CWORD": str(line.count(" "))}, check=False,
    )  # fmt: skip
    assert offered <= set(done.stdout.split())
    assert "compress" not in done.stdout or "sp" not in offered


def test_the_completion_script(tmp_path: Path) -> None:
    # Otherwise the shell is looked for among the processes above, and there is none in a test.
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "paredown", "--show-completion", "bash"],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | named, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "_PAREDOWN_COMPLETE=complete_bash" in done.stdout


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_line_of_progress_gives_up_words_before_the_time(width: int) -> None:
    console = Console(width=width, force_terminal=True, file=io.StringIO())
    line = StepProgress(console).line(
        "a stage with a very long name, and more of it" * 3, 0.5, 60, 60
    )
    assert line.plain.endswith("(1m00s, about 1m00s left)")
    assert len(line.plain) <= width
