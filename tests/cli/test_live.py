"""The line of progress between what workers say: it lives, and is never silent for long."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.console import Console

from paredown.report import live
from paredown.report.live import RunProgress, StepProgress
from tests.report.report_samples import baseline


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def piped() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(width=120, file=out, force_terminal=False), out


def run_progress(clock: Clock) -> tuple[RunProgress, io.StringIO]:
    console, out = piped()
    progress = RunProgress(console, 3, ("quality", "size"))
    progress._clock = clock
    progress._start = progress._printed = clock()
    return progress, out


def told(progress: RunProgress, left: float | None, message: str = "latency") -> None:
    progress("progress", {"episode": 1, "stage": "evaluate", "share": 0.3, "message": message,
                          "left_s": left})  # fmt: skip


def test_a_silent_worker_is_heard_of_every_few_seconds() -> None:
    clock = Clock()
    progress, out = run_progress(clock)
    told(progress, 90.0)
    for _ in range(30):  # half a minute in which nobody says anything
        clock.now += 1
        progress.beat()
    lines = out.getvalue().splitlines()
    assert len(lines) == 7  # every four seconds
    assert lines[0].endswith("episode 1: evaluate, latency (4.0s, about 1m26s left)")
    assert lines[-1].endswith("(28s, about 1m02s left)")


def test_what_is_printed_anyway_counts_and_a_pause_is_quiet() -> None:
    clock = Clock()
    progress, out = run_progress(clock)
    told(progress, None)
    clock.now += 3
    progress("note", {"text": "something"})
    clock.now += 3
    progress.beat()
    assert out.getvalue().splitlines() == ["note: something"]
    progress("paused", {})
    clock.now += 100
    progress.beat()
    assert out.getvalue().splitlines()[1:] == ["paused"]
    told(progress, None)  # a worker that goes on is heard
    assert len(out.getvalue().splitlines()) == 3


def test_the_bar_is_of_the_time() -> None:
    clock = Clock()
    progress, _ = run_progress(clock)
    clock.now += 30
    told(progress, 90.0)
    assert progress.now().plain.startswith("[######..................] ")
    clock.now += 10  # between events both times go on
    assert progress.now().plain.endswith("(40s, about 1m20s left)")


def test_every_part_of_a_run_says_what_it_is() -> None:
    clock = Clock()
    progress, _ = run_progress(clock)
    seen = [progress.now().plain]
    steps: list[tuple[str, dict[str, Any]]] = [
        ("preparing", {"share": 0.25, "message": "checking the weights, model.safetensors"}),
        ("decision", {"episode": 0, "action": "baseline", "reason": "first"}),
        ("result", {"result": baseline()}),
        ("decision", {"episode": 1, "action": "end", "reason": "enough"}),
    ]
    for event, fields in steps:
        progress(event, fields)
        seen.append(progress.now().plain)
    for line, words in zip(
        seen,
        ["starting", "checking the weights", "episode 0: starting", "choosing", "the report"],
        strict=True,
    ):
        assert words in line


def test_the_beat_is_real(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_QUIET_S", 0.05)
    monkeypatch.setattr(live, "_BEAT_S", 0.01)
    console, out = piped()
    with StepProgress(console) as progress:
        progress.show("compress: block 1 of 2", 0.1)
        end = time.monotonic() + 20
        while out.getvalue().count("block 1 of 2") < 3 and time.monotonic() < end:
            time.sleep(0.01)
    assert out.getvalue().count("block 1 of 2") >= 3
    shown = out.getvalue()
    time.sleep(0.2)
    assert out.getvalue() == shown  # nothing comes behind the end


def test_a_live_line_is_drawn_from_the_clock() -> None:
    out = io.StringIO()
    console = Console(width=100, file=out, force_terminal=True)
    clock = Clock()
    with StepProgress(console, clock=clock) as progress:
        progress.watch("compress", 0.5, "block 1 of 2")
        clock.now += 61
        progress.live.refresh()
    assert "(1m01s)" in out.getvalue()
