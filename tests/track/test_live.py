"""A tracker is told while a run goes on, and never keeps it waiting."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from paredown.errors import TrackingError
from paredown.store.experiment import ExperimentRecord
from paredown.track import live
from paredown.track.live import Live
from tests.report.report_samples import record, several


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(folder: Path) -> ExperimentRecord:
        return record(folder, several()[:1])

    monkeypatch.setattr(live, "read_experiment", read)


def test_it_is_told_after_results_and_at_the_end(tmp_path: Path) -> None:
    told = threading.Semaphore(0)
    with Live(tmp_path, lambda kept: told.release()) as listening:
        listening("progress", {})
        assert not told.acquire(timeout=0.2)
        listening("result", {})
        assert told.acquire(timeout=10)
    assert told.acquire(timeout=0)
    assert listening.trouble is None


def test_a_slow_tracker_keeps_nobody_waiting(tmp_path: Path) -> None:
    free, begun, calls = threading.Event(), threading.Event(), []

    def slow(kept: ExperimentRecord) -> None:
        calls.append(kept)
        begun.set()
        free.wait(20)

    start = time.monotonic()
    with Live(tmp_path, slow, patience_s=0.5) as listening:
        listening("result", {})
        assert begun.wait(10)
        for _ in range(5):
            listening("result", {})
    assert time.monotonic() - start < 15
    assert listening.trouble == "no answer within 0 s"
    assert len(calls) == 1
    free.set()
    listening._thread.join(10)
    assert len(calls) == 2  # what came meanwhile was told at once


def test_trouble_is_kept_until_it_is_over(tmp_path: Path) -> None:
    said: list[Any] = [TrackingError("away"), None, TrackingError("away again")]

    def tell(kept: ExperimentRecord) -> None:
        found = said.pop(0)
        if found is not None:
            raise found

    with Live(tmp_path, tell) as listening:
        listening("result", {})
        while len(said) == 3:
            time.sleep(0.01)
    assert listening.trouble is None
    with Live(tmp_path, tell) as listening:
        pass
    assert listening.trouble == "away again"
