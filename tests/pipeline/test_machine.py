"""Processes that know nothing of each other share a machine, and leave it to one that measures."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path

import pytest

from paredown.errors import ConfigError
from paredown.pipeline.executors.machine import LOCKS, machine_taken

_OTHER = """
import sys
from paredown.pipeline.executors.machine import machine_taken
with machine_taken(alone=sys.argv[1] == "alone", is_stopped=lambda: False) as waited:
    print("in", round(waited, 3), flush=True)
    sys.stdin.readline()
print("out", flush=True)
"""


@contextmanager
def another(how: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that enters, and leaves when a line is sent to it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _OTHER, how],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().split(" ")[0].strip()


class Entering:
    """A thread of this process that wants in."""

    def __init__(self, *, alone: bool) -> None:
        self.inside, self.leave, self.stopped = threading.Event(), threading.Event(), False
        self.cancelled, self.waited = False, -1.0
        self._thread = threading.Thread(target=self._enter, args=(alone,), daemon=True)
        self._thread.start()

    def _enter(self, alone: bool) -> None:
        try:
            with machine_taken(alone=alone, is_stopped=lambda: self.stopped) as self.waited:
                self.inside.set()
                self.leave.wait(20)
        except CancelledError:
            self.cancelled = True

    def end(self) -> None:
        self.leave.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


def test_who_measures_waits_for_another_process_and_keeps_later_ones_out() -> None:
    with another("with others") as other:
        assert says(other) == "in"
        beside = Entering(alone=False)
        assert beside.inside.wait(20)  # many may be in
        beside.end()
        alone = Entering(alone=True)
        assert not alone.inside.wait(0.3)
        late = Entering(alone=False)
        assert not late.inside.wait(0.3)  # the other could go on for ever with such company
        other.communicate("go\n")
        assert alone.inside.wait(20)
        assert alone.waited >= 0.3
        assert not late.inside.wait(0.1)
        alone.end()
        assert late.inside.wait(20)
        late.end()


def test_a_killed_process_keeps_nobody_out() -> None:
    with another("alone") as other:
        assert says(other) == "in"
        beside = Entering(alone=False)
        assert not beside.inside.wait(0.3)
        other.kill()
        assert beside.inside.wait(20)
        beside.end()


def test_who_is_stopped_in_the_gate_lets_others_through() -> None:
    with another("with others") as other:
        assert says(other) == "in"
        alone = Entering(alone=True)
        assert not alone.inside.wait(0.2)
        alone.stopped = True
        alone.end()
        assert alone.cancelled
        beside = Entering(alone=False)
        assert beside.inside.wait(20)
        beside.end()


def test_what_another_user_left_in_the_folder_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "locks"
    monkeypatch.setenv(LOCKS, str(folder))
    folder.mkdir()
    (folder / "room.lock").symlink_to(tmp_path / "precious")
    with (
        pytest.raises(ConfigError, match=r"room\.lock.*PAREDOWN_LOCKS"),
        machine_taken(alone=False, is_stopped=lambda: False),
    ):
        pass
    (folder / "room.lock").unlink()
    os.mkfifo(folder / "room.lock")
    with (
        pytest.raises(ConfigError, match=r"room\.lock is no file"),
        machine_taken(alone=False, is_stopped=lambda: False),
    ):
        pass
    assert not (tmp_path / "precious").exists()
