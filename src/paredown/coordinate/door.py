"""The door of a run: commands come in through its folder, and signs of life go out."""

from __future__ import annotations

import platform
import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, final

from paredown.coordinate.state import Listener
from paredown.coordinate.steering import Steering
from paredown.store.commands import ANSWERED, COMMANDS_FILE, Inbox, Sent, answers
from paredown.store.events import read_events
from paredown.store.experiment import Experiment
from paredown.store.state import BEAT_S, PROGRESS_FILE, Moment, write_moment

TOO_LATE = "not carried out: it came when no run was there to hear it"
_LOOK_S = 0.5
"""Between two looks for commands: one question to the file system each."""
_TELL_S = 1.0
"""Progress is told at most this often."""


@final
class Door:
    """Has a thread of its own while its context is open.

    What stands in the folder when it opens was meant for an earlier session, and is not carried
    out: a `stop` of last week must not end the run of today.
    """

    def __init__(self, experiment: Experiment, steering: Steering) -> None:
        self._experiment, self._steering = experiment, steering
        self._inbox = Inbox(experiment.folder / COMMANDS_FILE)
        self._moment = Moment(time=0.0, host=platform.node())
        self._told: Moment | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="door", daemon=True)

    def __enter__(self) -> Self:
        self._tell()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        # First: a command that waits for the run to be ready must not keep the thread.
        self._steering.detach()
        self._thread.join()
        (self._experiment.folder / PROGRESS_FILE).unlink(missing_ok=True)

    def heard(self, listen: Listener) -> Listener:
        """A listener that tells `listen`, and the folder how far the run is."""

        def told(event: str, fields: dict[str, Any]) -> None:
            self._hear(event, fields)
            listen(event, fields)

        return told

    def _hear(self, event: str, fields: dict[str, Any]) -> None:
        if event == "progress":
            names = ("episode", "stage", "share", "message", "left_s")
            self._moment = replace(self._moment, **{n: fields[n] for n in names if n in fields})
        elif event == "result":
            self._moment = replace(
                self._moment, stage="", share=0.0, message="choosing what comes next"
            )
        elif event == "decision" and fields["action"] == "end":
            self._moment = replace(
                self._moment, stage="end", share=1.0, message="writing the report", left_s=None
            )

    def _work(self) -> None:
        known = {answer.id for answer in answers(read_events(self._experiment.events.path))}
        for sent in self._inbox.missed:
            if sent.id not in known:
                self._answer(sent, TOO_LATE)
        while not self._closing.wait(_LOOK_S):
            for sent in self._inbox.new():
                self._answer(sent, self._steering.command(sent.text))
            self._tell()
        for sent in self._inbox.new():
            self._answer(sent, TOO_LATE)

    def _answer(self, sent: Sent, answer: str) -> None:
        about = {"id": sent.id, "host": sent.host, "text": sent.text, "sent": sent.time}
        self._experiment.events.add(ANSWERED, **about, answer=answer)

    def _tell(self) -> None:
        """Tell how far it is, if that has changed, or nothing was told for a while."""
        now = time.time()
        moment = replace(
            self._moment, time=now, paused=self._steering.paused, stopping=self._steering.stopped
        )
        last = self._told
        if last is not None:
            changed = replace(last, time=now) != moment
            if now - last.time < (_TELL_S if changed else BEAT_S):
                return
        self._told = moment
        # A full disk ends the run by itself, in words; without a sign of life it still goes on.
        with suppress(OSError):
            write_moment(self._experiment.folder, moment)
