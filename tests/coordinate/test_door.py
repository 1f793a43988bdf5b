"""A run hears commands through its folder, answers in its log, and tells how far it is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paredown.coordinate.door import TOO_LATE, Door
from paredown.coordinate.steering import STOPPED
from paredown.pipeline.messages import AnyJob, Failed
from paredown.store.commands import ANSWERED, Sent, answer_to, send
from paredown.store.events import read_events
from paredown.store.experiment import lock
from paredown.store.state import PROGRESS_FILE, read_moment
from tests.coordinate.fake_run import FakeExecutor, fake_run, go
from tests.search.search_fakes import use_fakes


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setattr("paredown.coordinate.door._LOOK_S", 0.01)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "e"
    handle = lock(folder)
    yield folder
    os.close(handle)


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def answered(folder: Path, sent: Sent) -> str:
    until(lambda: answer_to(sent, read_events(folder / "events.jsonl")) is not None)
    return str(answer_to(sent, read_events(folder / "events.jsonl")))


def test_a_run_is_steered_through_its_folder(tmp_path: Path, locked: Path) -> None:
    """Excluded, asked for, stopped: while an episode is under way, and it shows in what follows."""
    asked: list[Sent] = []

    def gate(job: AnyJob, folder: Path) -> Failed | None:
        if folder.name == "episode_001" and not asked:
            for text in ("exclude none", "try quant(bits=8)", "frobnicate", "status"):
                try:
                    asked.append(send(locked, text))
                except Exception as error:  # noqa: BLE001 - told below
                    refused.append(str(error))
            for sent in asked:
                answered(locked, sent)
        if folder.name == "episode_003" and len(asked) == 3:
            asked.append(send(locked, "stop"))
            answered(locked, asked[-1])
        return None

    refused: list[str] = []
    run, _ = fake_run(tmp_path, FakeExecutor(gate=gate), episodes=6)
    with Door(run.experiment, run.steering):
        assert go(run) == STOPPED
    events = read_events(run.experiment.events.path)
    answers = {e["text"]: e["answer"] for e in events if e["event"] == ANSWERED}
    assert "is not searched here" in answers["exclude none"]
    assert "6 episodes" in answers["status"]
    assert answers["stop"].startswith("stopping after")
    assert "no command is called 'frobnicate'" in refused[0]
    assert max(r.episode for r in run.experiment.results()) == 3


def test_a_pause_from_elsewhere_ends_from_elsewhere(tmp_path: Path, locked: Path) -> None:
    run, told = fake_run(tmp_path, FakeExecutor(), episodes=2)
    with Door(run.experiment, run.steering):
        assert answered(locked, send(locked, "pause")).startswith("pausing")
        work = threading.Thread(target=go, args=(run,))
        work.start()
        until(lambda: ("paused", {}) in told)
        until(lambda: (moment := read_moment(locked)) is not None and moment.paused)
        assert answered(locked, send(locked, "resume")) == "going on"
        work.join(10)
        assert not work.is_alive()
    assert len(run.experiment.results()) == 3


def test_a_resumed_run_does_not_do_again_what_was_asked_before(
    tmp_path: Path, locked: Path
) -> None:
    run, _ = fake_run(tmp_path, FakeExecutor(), episodes=1)
    with Door(run.experiment, run.steering):
        heard = send(locked, "stop")
        answered(locked, heard)
    missed = send(locked, "stop")  # the process was at its end, or killed
    run, _ = fake_run(tmp_path, FakeExecutor(), begin=False, episodes=1)
    with Door(run.experiment, run.steering):
        assert answered(locked, missed) == TOO_LATE
        assert not run.steering.stopped
        go(run)
    assert len(run.experiment.results()) == 2
    # And each has one answer, however often the run is resumed.
    with Door(run.experiment, run.steering):
        pass
    events = read_events(run.experiment.events.path)
    ids = [event["id"] for event in events if event["event"] == ANSWERED]
    assert ids == [heard.id, missed.id]


def test_the_folder_tells_how_far_the_run_is(tmp_path: Path, locked: Path) -> None:
    run, _ = fake_run(tmp_path, FakeExecutor(), episodes=1)
    heard: list[str] = []
    with Door(run.experiment, run.steering) as door:
        assert (locked / PROGRESS_FILE).exists()
        listen = door.heard(lambda event, fields: heard.append(event))
        fields: dict[str, Any] = {
            "episode": 2, "stage": "compress", "share": 0.25, "message": "block 3", "left_s": 60.0,
        }  # fmt: skip
        listen("progress", fields)
        until(lambda: (m := read_moment(locked)) is not None and m.episode == 2)
        moment = read_moment(locked)
        assert moment is not None
        assert (moment.stage, moment.share, moment.left_s) == ("compress", 0.25, 60.0)
    assert heard == ["progress"]
    assert not (locked / PROGRESS_FILE).exists()
