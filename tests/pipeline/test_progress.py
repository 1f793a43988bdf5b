"""What a worker says of how far it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paredown.pipeline import work
from paredown.pipeline.executors.watch import Teller, read_mended
from paredown.pipeline.executors.worker import JOB_FILE, ProgressFile, run_folder
from paredown.pipeline.messages import CompressDone, VerifyJob
from paredown.store.atomic import write_json
from paredown.store.cache import Cache


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
    tell = Teller(tmp_path / "progress.json", lambda *said: heard.append(said), lambda: at[0])
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


def test_what_a_worker_finds_damaged_and_mends_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Cache(tmp_path / "cache", 1e9)
    entry = kept.put("moments", "of a model", ".txt", lambda path: path.write_text("whole"))
    entry.write_text("broken")
    done = CompressDone(predicted_bytes=1, stored_bytes=1, reused_steps=0)

    def perform(*_: object) -> CompressDone:
        kept.get_or_put("moments", "of a model", ".txt", lambda path: path.write_text("again"))
        return done

    monkeypatch.setattr(work, "perform", perform)
    job = VerifyJob(device="cpu", artifact=tmp_path, base=tmp_path, expected=None, plain=False)
    write_json(tmp_path / JOB_FILE, job)
    assert run_folder(tmp_path) == 0
    words = f"cache: {entry} is damaged; it is dropped and computed again"
    assert read_mended(tmp_path) == (words,)
    assert entry.read_text() == "again"
    (tmp_path / "other").mkdir()
    assert read_mended(tmp_path / "other") == ()
