"""`paredown run --interactive`, as a script drives it and as a person at a terminal does."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from paredown.store.events import read_events
from paredown.store.experiment import read_experiment
from tests.coordinate.test_run import settings

_LONG_S = 300.0
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def write_config(folder: Path, **changes: object) -> list[str]:
    """The command of a run on a tiny model."""
    file = folder / "run.yaml"
    plain = {k: list(v) if isinstance(v, tuple) else v
             for k, v in settings(folder, methods=("rtn", "gptq"), **changes).items()}  # fmt: skip
    file.write_text(yaml.safe_dump(plain))
    return [
        sys.executable, "-m", "paredown", "run", "--config", str(file), "--interactive",
        "--experiment-name", "i", "--output-dir", str(folder),
    ]  # fmt: skip


def users(folder: Path) -> list[dict[str, Any]]:
    events = read_events(folder / "i" / "events.jsonl")
    return [event for event in events if event["event"] == "user"]


@pytest.mark.slow
def test_a_script_steers_a_run_and_a_resumed_run_keeps_to_it(tmp_path: Path) -> None:
    command = write_config(tmp_path, episodes=2)
    script = (
        "# comments and empty lines are passed over\n\n"
        "exclude gptq\n"
        "try rtn(bits=99)\n"
        "try l2_structured(ratio=0.3)\n"  # not among the methods of this run
        "nonsense\n"
        "pause"  # without an end of line, and the input ends: the run must not wait for ever
    )
    done = subprocess.run(
        command, input=script, capture_output=True, text=True, timeout=_LONG_S, check=True
    )
    assert "> exclude gptq\n  gptq will not be proposed any more\n" in done.stdout
    assert "try: rtn: bits = 99: Input should be less than or equal to 8" in done.stdout
    assert "l2_structured(ratio=0.3) will be episode 1" in done.stdout
    assert "no command is called 'nonsense'" in done.stdout
    assert "no more commands can come: going on" in done.stdout
    assert [event["command"] for event in users(tmp_path)] == ["exclude", "try", "pause", "resume"]
    first, second = read_experiment(tmp_path / "i").trials
    assert (first.label, first.proposed_by) == ("l2_structured(ratio=0.3)", "user")
    assert second.label.startswith("rtn(")
    longer = [*write_config(tmp_path, episodes=3), "--resume"]
    done = subprocess.run(
        longer, input="", capture_output=True, text=True, timeout=_LONG_S, check=True
    )
    assert "from an earlier session: excluded: gptq" in done.stdout
    assert read_experiment(tmp_path / "i").trials[2].label.startswith("rtn")


@pytest.mark.slow
def test_a_person_at_a_terminal_pauses_and_stops(tmp_path: Path) -> None:
    command = write_config(tmp_path, episodes=3)
    process, terminal = pty.fork()
    if process == 0:
        os.environ["TERM"] = "xterm"
        os.execv(command[0], command)
    try:
        import fcntl
        import termios

        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        seen = Seen(terminal)
        seen.until("type help")
        os.write(terminal, b"pau\x7fuse")
        os.write(terminal, b"\r")
        seen.until("> pause")  # as the line was mended while it was typed
        seen.until("pausing after the running episode")
        seen.until("Pareto front")  # the baseline is done
        seen.until("paused")
        os.write(terminal, b"resume\r")
        seen.until("episode 1/3")
        os.write(terminal, b"stop\r")
        seen.until("Runner-up")  # the report of what was done
        _, status = os.waitpid(process, 0)
        process = -1
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        if process > 0:
            os.kill(process, signal.SIGKILL)
        os.close(terminal)
    record = read_experiment(tmp_path / "i")
    assert len(record.trials) == 1
    assert record.final is not None
    assert record.final["stop_reason"].startswith("stopped by the user (stop)")
    assert [event["command"] for event in users(tmp_path)] == ["pause", "resume", "stop"]


@pytest.mark.slow
def test_two_interrupts_end_at_once_and_say_how_to_go_on(tmp_path: Path) -> None:
    command = write_config(tmp_path)
    command.remove("--interactive")
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert run.stdout is not None
    for words in ("episode 0/", "stopping after this episode"):
        while words not in (line := run.stdout.readline()):
            assert line, "the run ended by itself"
        run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=_LONG_S)
    assert run.returncode == 130
    assert "what was finished is kept. To go on: paredown resume " in errors
    assert "Traceback" not in errors


class Seen:
    """What a terminal shows, without colours and movements."""

    def __init__(self, terminal: int) -> None:
        self.terminal, self.text = terminal, ""

    def until(self, words: str) -> None:
        """Read on until `words` appear after what was waited for before."""
        end = time.monotonic() + _LONG_S
        while words not in self.text:
            assert time.monotonic() < end, f"{words!r} did not appear in {self.text[-2000:]!r}"
            if select.select([self.terminal], [], [], 1.0)[0]:
                try:
                    data = os.read(self.terminal, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"ended before {words!r}: {self.text[-2000:]!r}") from None
                self.text += _CODES.sub("", data)
        self.text = self.text.partition(words)[2]
