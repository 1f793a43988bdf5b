"""Ctrl-C: once ends after the trial in flight, twice ends at once."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest

import paredown
from paredown.coordinate.interrupt import REASON, Interrupt
from tests.coordinate.test_run import settings


def test_the_first_is_remembered_and_the_second_raises() -> None:
    told: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with Interrupt(tell=lambda: told.append("told")) as interrupt:
        assert not interrupt.asked
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        assert told == ["told"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_of_the_main_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with Interrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.slow
def test_a_run_ends_after_the_trial_in_flight_and_goes_on_with_resume(tmp_path: Path) -> None:
    request = settings(tmp_path, methods=("rtn",), episodes=2)
    events: list[str] = []

    def press(event: str, fields: dict[str, object]) -> None:
        events.append(event)
        if event == "decision" and fields["episode"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    front = paredown.optimize(
        **request, experiment_name="c", output_dir=tmp_path, listen=press  # type: ignore[arg-type]
    )  # fmt: skip
    assert "interrupted" in events
    assert [r.status for r in front.record.trials] == ["ok"]
    final = json.loads((tmp_path / "c" / "final_results.json").read_text())
    assert final["stop_reason"] == REASON
    assert REASON in (tmp_path / "c" / "report.md").read_text()
    again = paredown.optimize(
        **request, experiment_name="c", output_dir=tmp_path, resume=True  # type: ignore[arg-type]
    )  # fmt: skip
    assert len(again.record.trials) == 2
    assert again.record.final is not None
    assert again.record.final["stop_reason"] == "all episodes are used"


def test_a_second_one_ends_at_once_and_loses_only_the_trial_in_flight(tmp_path: Path) -> None:
    request = settings(tmp_path, methods=("rtn",))

    def press(event: str, fields: dict[str, object]) -> None:
        if event == "decision" and fields["episode"] == 1:
            os.kill(os.getpid(), signal.SIGINT)
        if event == "progress" and fields["episode"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        paredown.optimize(
            **request, experiment_name="k", output_dir=tmp_path, listen=press  # type: ignore[arg-type]
        )  # fmt: skip
    log = (tmp_path / "k" / "events.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["reason"] == "stopped at once by the user (Ctrl-C)"
    assert (tmp_path / "k" / "episode_000" / "results.json").exists()
    assert not (tmp_path / "k" / "episode_001" / "results.json").exists()
