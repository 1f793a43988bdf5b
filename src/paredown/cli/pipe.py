"""Commands that come line by line through a pipe."""

from __future__ import annotations

import codecs
import os
import select
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, final

_TICK_S = 0.2


@final
class PipedLines:
    """Reads lines of standard input in a thread while its context is open.

    The file is asked for before it is read: a thread that waits inside of Python's own reader
    would hold its lock, and the program could not end.
    """

    def __init__(self, on_line: Callable[[str], None], *, on_end: Callable[[], None]) -> None:
        """
        Args:
            on_line: given each whole line, and what stands behind the last one.
            on_end: told that nothing more will come.
        """
        self._on_line, self._on_end = on_line, on_end
        self._pending = ""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read, name="commands", daemon=True)
        is_open = sys.stdin is not None and not sys.stdin.closed
        self._file = sys.stdin.fileno() if is_open else -1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join(5 * _TICK_S)  # a command under way must not hold up the end

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while self._file >= 0 and not self._done.is_set():
            if not select.select([self._file], [], [], _TICK_S)[0]:
                continue
            try:
                data = os.read(self._file, 4096)
            except OSError:  # the other end is gone
                break
            if not data:
                break
            self._take(decoder.decode(data))
        if not self._done.is_set():
            self._take("\n" if self._pending else "")
            self._on_end()

    def _take(self, text: str) -> None:
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            self._on_line(line)
