"""`paredown run --json`: the events of a run for programs, a line of JSON each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TextIO, final

from paredown.report.live import Display
from paredown.spec.serial import plain

if TYPE_CHECKING:
    from paredown.store.experiment import ExperimentRecord

END = "end"
"""The last event: the document of `paredown analyze --format json`."""


@final
class JsonLines(Display):
    """Writes each event as it comes: `{"event": "decision", ...}`."""

    def __init__(self, to: TextIO, *, only_the_end: bool = False) -> None:
        super().__init__()
        self._to, self._only_the_end = to, only_the_end

    def __call__(self, event: str, fields: dict[str, Any]) -> None:
        """Write an event; flushed, because a reader waits for it."""
        super().__call__(event, fields)
        if not self._only_the_end:
            self._write(event, fields)

    def end(self, record: ExperimentRecord) -> None:
        """Write what was found: recommendation, front and all episodes."""
        from paredown.report.documents import stop_reason_of, whole_document
        from paredown.report.findings import find
        from paredown.store.experiment import state_of

        state = state_of(record)
        self._write(END, whole_document(find(record), state, stop_reason_of(record, state)))

    def _write(self, event: str, fields: dict[str, Any]) -> None:
        line = json.dumps({"event": event, **plain(fields)}, allow_nan=False)
        print(line, file=self._to, flush=True)
