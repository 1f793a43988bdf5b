"""Commands sent through an experiment's folder, and who is at work in it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from paredown.errors import ConfigError, ExperimentError
from paredown.store.commands import COMMANDS_FILE, Inbox, answer_to, send, unanswered
from paredown.store.events import EventLog, EventReader, read_events
from paredown.store.experiment import lock
from paredown.store.state import FINAL_FILE, Moment, read_moment, state_in, write_moment
from tests.report.report_samples import baseline, record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return record(tmp_path / "e", (baseline(),)).folder


@pytest.fixture
def running(folder: Path) -> Iterator[Path]:
    handle = lock(folder)
    yield folder
    os.close(handle)


def test_a_command_is_one_line_that_is_read_once(running: Path) -> None:
    inbox = Inbox(running / COMMANDS_FILE)
    first, second = send(running, "exclude  gptq"), send(running, "pause")
    assert [sent.text for sent in inbox.new()] == ["exclude gptq", "pause"]
    assert first.id != second.id
    assert inbox.new() == []
    send(running, "resume")
    assert [sent.text for sent in inbox.new()] == ["resume"]


def test_what_was_sent_before_is_told_apart(running: Path) -> None:
    send(running, "stop")
    inbox = Inbox(running / COMMANDS_FILE)
    assert [sent.text for sent in inbox.missed] == ["stop"]
    assert inbox.new() == []


def test_a_line_cut_off_takes_no_other_with_it(running: Path) -> None:
    path = running / COMMANDS_FILE
    path.write_text('{"id": "1", "text": "sto')
    inbox = Inbox(path)
    send(running, "pause")
    assert [sent.text for sent in inbox.new()] == ["pause"]


def test_a_file_put_in_its_place_brings_nothing_twice(running: Path) -> None:
    path = running / COMMANDS_FILE
    inbox = Inbox(path)
    send(running, "pause")
    send(running, "resume")
    assert len(inbox.new()) == 2
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert inbox.new() == []
    send(running, "status")
    assert [sent.text for sent in inbox.new()] == ["status"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("exlude gptq", "did you mean 'exclude'"),
        ("exclude", "exclude METHOD"),
        ("pause now", "write it as: pause"),
        ("", "no command"),
        ("try " + "x" * 200_000, "at most 200000"),
    ],
)
def test_what_is_no_command_is_not_sent(running: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        send(running, text)
    assert not (running / COMMANDS_FILE).exists()


def test_nothing_is_sent_where_nobody_hears_it(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"not running .interrupted.*paredown resume"):
        send(folder, "pause")
    (folder / FINAL_FILE).write_text("{}")
    with pytest.raises(ExperimentError, match=r"not running .finished.*--episodes N"):
        send(folder, "pause")
    with pytest.raises(ExperimentError, match="no experiment folder"):
        send(tmp_path, "pause")
    assert not (folder / COMMANDS_FILE).exists()


def test_answers_stand_in_the_log(running: Path) -> None:
    sent = send(running, "pause")
    log = running / "events.jsonl"
    assert answer_to(sent, read_events(log)) is None
    assert unanswered(running, read_events(log)) == [sent]
    EventLog(log).add("command", id=sent.id, host="h", text="pause", answer="pausing")
    assert answer_to(sent, read_events(log)) == "pausing"
    assert unanswered(running, read_events(log)) == []


def test_a_sign_of_life_tells_of_a_run_on_another_machine(folder: Path) -> None:
    moment = Moment(time=time.time(), host="elsewhere", episode=3, stage="compress", share=0.5)
    assert state_in(folder) == "interrupted"
    write_moment(folder, moment)
    assert read_moment(folder) == moment
    assert state_in(folder) == "running"
    write_moment(folder, replace(moment, time=time.time() - 3600))
    assert state_in(folder) == "interrupted"


def test_of_this_machine_the_lock_tells(folder: Path) -> None:
    import platform

    write_moment(folder, Moment(time=time.time(), host=platform.node()))
    assert state_in(folder) == "interrupted"  # a kill has left it
    handle = lock(folder)
    assert state_in(folder) == "running"
    os.close(handle)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"time": "x"}', '{"time": 1, "host": 2}'])
def test_a_damaged_sign_of_life_is_none(folder: Path, text: str) -> None:
    (folder / "progress.json").write_text(text)
    assert read_moment(folder) is None


def test_a_log_that_grows_is_read_once(tmp_path: Path) -> None:
    log, reader = EventLog(tmp_path / "events.jsonl"), EventReader(tmp_path / "events.jsonl")
    assert reader.read() == ()
    log.add("a")
    log.add("b")
    assert [e["event"] for e in reader.read()] == ["a", "b"]
    with log.path.open("a") as file:
        file.write('{"time": 1, "event": "c"')  # still being written
    assert [e["event"] for e in reader.read()] == ["a", "b"]
    with log.path.open("a") as file:
        file.write("}\n")
    assert [e["event"] for e in reader.read()] == ["a", "b", "c"]
    assert list(reader.read()) == read_events(log.path)


def test_another_log_of_the_same_name_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    path.write_text(json.dumps({"time": 1, "event": "old"}) + "\n")
    assert [e["event"] for e in reader.read()] == ["old"]
    lines = [json.dumps({"time": 2, "event": name}) + "\n" for name in ("new", "newer")]
    path.write_text("".join(lines))
    assert [e["event"] for e in reader.read()] == ["new", "newer"]
