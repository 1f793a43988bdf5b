"""What a worker says of how far it is."""

from __future__ import annotations

import json
from pathlib import Path

from paredown.pipeline.executors.watch import _Teller
from paredown.pipeline.executors.worker import ProgressFile


def told(progress: ProgressFile) -> tuple[float, str]:
    found = json.loads(progress.path.read_text())
    return found["share"], found["message"]


def test_a_new_message_is_told_at_once_and_the_same_one_now_and_then(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path)
    progress(0.1, "latency")
    progress(0.11, "latency")
    assert told(progress) == (0.1, "latency")
    progress(0.3, "energy")
    progress(0.4, "quality")  # energy took no time; this takes minutes
    assert told(progress) == (0.4, "quality")
    progress(1.0, "quality")
    assert told(progress) == (1.0, "quality")


def test_what_is_new_is_told_at_once_and_the_rest_now_and_then(tmp_path: Path) -> None:
    at = [0.0]
    heard: list[tuple[float, str]] = []
    tell = _Teller(tmp_path / "progress.json", lambda *said: heard.append(said), lambda: at[0])
    progress = ProgressFile(tmp_path)
    tell()
    assert heard == [(0.0, "starting")]  # it has said nothing yet
    at[0] = 1.0
    tell()
    progress(0.1, "latency")
    tell()
    assert heard == [(0.0, "starting"), (0.1, "latency")]
    for at[0] in (2.0, 2.9, 3.1, 4.0, 5.2):
        tell()
    assert heard[2:] == [(0.1, "latency")] * 2  # two seconds apart
