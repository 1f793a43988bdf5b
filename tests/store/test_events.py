"""The event log: order, kills in the middle of a line, keys blotted out."""

from __future__ import annotations

from pathlib import Path

import pytest

from paredown.spec.strategy import parse_strategy
from paredown.store.events import EventLog, read_events


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_events_come_back_in_order(path: Path) -> None:
    log = EventLog(path)
    log.add("started", episodes=3)
    log.add("chosen", strategy=parse_strategy("rtn(bits=4)"), text="Grüße\nzwei")
    first, second = read_events(path)
    assert (first["event"], first["episodes"]) == ("started", 3)
    assert second["strategy"]["steps"][0]["method"] == "rtn"
    assert second["text"] == "Grüße\nzwei"
    assert first["time"] <= second["time"]
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_cut_off_last_line_is_left_out_and_then_dropped(path: Path, cut: int) -> None:
    log = EventLog(path)
    log.add("one")
    log.add("two")
    path.write_bytes(path.read_bytes()[:-cut])
    assert [e["event"] for e in read_events(path)] == ["one"]
    EventLog(path).add("three")
    assert [e["event"] for e in read_events(path)] == ["one", "three"]


def test_a_log_cut_off_in_its_first_line(path: Path) -> None:
    path.write_text('{"event": "on')
    assert read_events(path) == []
    EventLog(path).add("one")
    assert [e["event"] for e in read_events(path)] == ["one"]


def test_opening_a_complete_log_changes_nothing(path: Path) -> None:
    EventLog(path).add("one")
    before = path.read_bytes()
    EventLog(path)
    assert path.read_bytes() == before


def test_there_may_be_no_log(path: Path) -> None:
    assert read_events(path) == []


@pytest.mark.parametrize("secret", ["hf_" + "A1b2" * 8, "sk-" + "x_Y-9" * 6])
def test_keys_are_blotted_out(path: Path, secret: str) -> None:
    log = EventLog(path)
    log.add("failed", message=f"401 for token {secret}.", nested={"list": [secret]})
    assert secret not in path.read_text()
    (event,) = read_events(path)
    assert event["message"] == "401 for token [key]."
    assert event["nested"] == {"list": ["[key]"]}


def test_ordinary_words_stay(path: Path) -> None:
    words = "sk-learn hf_hub task-0123456789abcdefghij"
    EventLog(path).add("x", words=words)
    assert read_events(path)[0]["words"] == words


def test_nan_is_refused_and_writes_nothing(path: Path) -> None:
    log = EventLog(path)
    with pytest.raises(ValueError, match="JSON compliant"):
        log.add("x", value=float("nan"))
    assert read_events(path) == []
