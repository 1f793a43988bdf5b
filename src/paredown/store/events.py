"""events.jsonl: every decision and why, one JSON object a line, in order."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, final

from paredown.errors import ExperimentError
from paredown.spec.reading import json_rows, read_text
from paredown.spec.redact import redact_all
from paredown.spec.serial import canonical, plain

_HEAD_BYTES = 256
"""Beginning of a log, which holds the time of its first event and so tells it from another."""


class EventLog:
    """Appends events; a line cut off by a kill is dropped when the log is opened again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()  # the user's commands come from another thread
        if path.exists():
            data = path.read_bytes()
            if data and not data.endswith(b"\n"):
                os.truncate(path, data.rfind(b"\n") + 1)

    def add(self, event: str, **fields: Any) -> None:
        """Append one event with the time; anything that looks like a key is blotted out."""
        told = redact_all(plain(fields))
        line = canonical({"time": round(time.time(), 3), "event": event, **told})
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def read_events(path: Path) -> list[dict[str, Any]]:
    """All complete events; a last line still being written is left out.

    Raises:
        ExperimentError: the file cannot be read, or a line is no event; the line is told.
    """
    if not path.exists():
        return []
    whole, _, _ = read_text(path, error=ExperimentError).rpartition("\n")
    return _parsed(whole, path)


def _parsed(text: str, path: Path) -> list[dict[str, Any]]:
    found = []
    for number, event in json_rows(text, where=str(path), error=ExperimentError):
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise ExperimentError(f"{path}, line {number}: is no event")
        if not isinstance(event.get("time"), int | float):
            raise ExperimentError(f"{path}, line {number}: has no time")
        found.append(event)
    return found


@final
class EventReader:
    """Reads a log that grows, each line once: the log of a long run has tens of megabytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._head = b""
        self._found: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def read(self) -> tuple[dict[str, Any], ...]:
        """All complete events so far.

        Raises:
            ExperimentError: a line is no event; the line is told, counted from what was read last.
        """
        with self._lock:
            try:
                with self._path.open("rb") as file:
                    self._read(file)
            except FileNotFoundError:
                self._offset, self._found = 0, []
            return tuple(self._found)

    def _read(self, file: BinaryIO) -> None:
        head = file.read(_HEAD_BYTES)
        size = file.seek(0, os.SEEK_END)
        # Another file of that name: the folder was deleted, and an experiment begun anew.
        if size < self._offset or not head.startswith(self._head):
            self._offset, self._found = 0, []
        self._head = head
        file.seek(self._offset)
        whole, newline, _ = file.read().rpartition(b"\n")
        self._found += _parsed(whole.decode("utf-8", errors="replace"), self._path)
        self._offset += len(whole) + len(newline)
