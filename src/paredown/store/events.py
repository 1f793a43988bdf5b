"""events.jsonl: every decision and why, one JSON object a line, in order."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

from paredown.spec.serial import canonical, plain

_SECRET = re.compile(r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,})\b")


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
        line = canonical({"time": round(time.time(), 3), "event": event, **plain(fields)})
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(_SECRET.sub("[key]", line) + "\n")


def read_events(path: Path) -> list[dict[str, Any]]:
    """All complete events; a last line still being written is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line]
