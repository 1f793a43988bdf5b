"""commands.jsonl: what users ask of a run through its folder, one JSON object a line.

Whoever can write into the folder can steer, from this machine or another. The run answers in its
event log (`command`), under the id of the command.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from paredown.errors import ConfigError, ExperimentError
from paredown.spec.serial import canonical
from paredown.spec.steering import complaint, parted
from paredown.store.atomic import clear_disk_errors
from paredown.store.experiment import require_experiment
from paredown.store.state import state_in

COMMANDS_FILE = "commands.jsonl"
ANSWERED = "command"
"""The event of an answer."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A command that was sent through the folder.

    Attributes:
        id: of this command; no other has it.
        time: seconds since 1970, by the clock of the sender.
        host: machine of the sender.
        text: as `exclude gptq`.
    """

    id: str
    time: float
    host: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A command and what the run said to it."""

    id: str
    time: float
    host: str
    text: str
    answer: str


def send(folder: Path, text: str) -> Sent:
    """Ask something of the run that is at work in `folder`; it answers within seconds.

    Raises:
        ConfigError: the text is no command, or the folder cannot be written.
        ExperimentError: it is no experiment's folder, or nobody is at work there.
    """
    if (why_not := complaint(text)) is not None:
        raise ConfigError(why_not)
    folder = folder.resolve()
    require_experiment(folder)
    if (state := state_in(folder)) != "running":
        again = shlex.join(["paredown", "resume", str(folder)])
        more = " --episodes N" if state == "finished" else ""
        raise ExperimentError(
            f"{folder.name} is not running ({state}), so nobody is there to {parted(text)[0]}; "
            f"to go on with it: {again}{more}"
        )
    sent = Sent(
        id=uuid.uuid4().hex, time=round(time.time(), 3), host=platform.node(),
        text=" ".join(text.split()),
    )  # fmt: skip
    _append(folder / COMMANDS_FILE, canonical(asdict(sent)) + "\n")
    return sent


def _append(path: Path, line: str) -> None:
    """In one write, so that two senders cannot get into each other's lines."""
    with clear_disk_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            # Behind a line that a kill has cut off: it must not take this one with it.
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            os.write(handle, ("\n" + line if torn else line).encode())
        finally:
            os.close(handle)


@final
class Inbox:
    """Reads the commands that come in after it was opened.

    What stands in the file already was meant for an earlier session: a `stop` of last week must not
    end the run of today.

    Attributes:
        missed: ids and commands that stand in the file already.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._seen: set[str] = set()
        self.missed = tuple(self.new())

    def new(self) -> list[Sent]:
        """What has come in since, in order; each only once. Lines that are no command are left out:
        their senders get no answer, and see that."""
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset = 0  # another file stands there now; `_seen` tells what is new
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole, newline, _ = data.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        found = [sent for line in whole.split(b"\n") if (sent := _read(line)) is not None]
        fresh = {sent.id: sent for sent in found if sent.id not in self._seen}
        self._seen |= fresh.keys()
        return list(fresh.values())


def _read(line: bytes) -> Sent | None:
    try:
        found: Any = json.loads(line)
        return Sent(
            id=str(found["id"]), time=float(found["time"]), host=str(found["host"]),
            text=str(found["text"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError):
        return None


def answers(events: Iterable[dict[str, Any]]) -> list[Answered]:
    """What was asked through the folder, and the answers, in the order in which they were given."""
    return [
        Answered(
            id=str(event["id"]), time=float(event["time"]), host=str(event["host"]),
            text=str(event["text"]), answer=str(event["answer"]),
        )
        for event in events
        if event["event"] == ANSWERED
    ]  # fmt: skip


def answer_to(sent: Sent, events: Iterable[dict[str, Any]]) -> str | None:
    """What the run said to a command; None while it has not."""
    return next((found.answer for found in answers(events) if found.id == sent.id), None)


def unanswered(folder: Path, events: Iterable[dict[str, Any]]) -> list[Sent]:
    """What was sent and not answered yet."""
    known = {answer.id for answer in answers(events)}
    return [sent for sent in Inbox(folder / COMMANDS_FILE).missed if sent.id not in known]
