"""What the user types while a run goes on: lines from a pipe, or keys from a terminal."""

from __future__ import annotations

import codecs
import os
import select
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import takewhile
from types import TracebackType
from typing import Any, Self, final

_BACK = {"\x7f", "\b"}
_UP, _DOWN = "\x1b[A", "\x1b[B"
_LONGEST = 2000
_TICK_S = 0.2


@final
class LineEditor:
    """A line that is being typed: backspace, Ctrl-U, Ctrl-W, Tab, and earlier lines with Up.

    Attributes:
        text: the line so far.
    """

    def __init__(self, words: Sequence[str] = ()) -> None:
        """`words` are what Tab completes to."""
        self.text = ""
        self._words = words
        self._earlier: list[str] = []
        self._place = 0
        self._escape = ""

    def feed(self, key: str) -> str | None:
        """Take one character; returns the line when it was Return."""
        if self._escape or key == "\x1b":
            self._arrow(key)
        elif key in "\r\n":
            return self._entered()
        elif key in _BACK:
            self.text = self.text[:-1]
        elif key == "\x15":  # Ctrl-U
            self.text = ""
        elif key == "\x17":  # Ctrl-W
            self.text = self.text.rstrip().rpartition(" ")[0]
        elif key == "\t":
            self._complete()
        elif key.isprintable() and len(self.text) < _LONGEST:
            self.text += key
        return None

    def _entered(self) -> str:
        line, self.text = self.text, ""
        if line.strip():
            self._earlier.append(line)
        self._place = len(self._earlier)
        return line

    def _arrow(self, key: str) -> None:
        """Collect an escape sequence, which ends with a letter or `~`; only Up and Down count."""
        self._escape += key
        if len(self._escape) < 3 and self._escape in {"\x1b", "\x1b[", "\x1bO"}:
            return
        if len(self._escape) > 2 and not (key.isalpha() or key == "~") and len(self._escape) < 8:
            return
        sequence, self._escape = self._escape.replace("\x1bO", "\x1b["), ""
        if sequence in {_UP, _DOWN} and self._earlier:
            step = -1 if sequence == _UP else 1
            self._place = min(max(self._place + step, 0), len(self._earlier))
            self.text = [*self._earlier, ""][self._place]

    def _complete(self) -> None:
        """The rest of the last word, as far as it is the only one it can become."""
        head, _, word = self.text.rpartition(" ")
        fits = [known for known in self._words if word and known.startswith(word)]
        if fits:
            ends = takewhile(lambda letters: len(set(letters)) == 1, zip(*fits, strict=False))
            full = "".join(letters[0] for letters in ends) + (" " if len(fits) == 1 else "")
            self.text = f"{head} {full}" if head else full


@final
class Keyboard:
    """Reads standard input in a thread while its context is open.

    On a terminal keys come one by one and are not echoed, so that a live display can show them;
    Ctrl-C stays a signal. Anything else is read line by line.
    """

    def __init__(
        self,
        on_line: Callable[[str], None],
        *,
        editor: LineEditor | None,
        on_key: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            on_line: given each whole line.
            editor: collects keys of a terminal; None: lines are read as the terminal sends them.
            on_key: told after each key, to redraw.
            on_end: told that nothing more will come.
        """
        self._on_line, self._on_key, self._on_end = on_line, on_key, on_end
        self._editor = editor
        self._pending = ""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read, name="commands", daemon=True)
        self._mode: list[Any] | None = None
        self._file = -1 if sys.stdin is None or sys.stdin.closed else sys.stdin.fileno()

    def __enter__(self) -> Self:
        if self._editor is not None:
            import termios
            import tty

            self._mode = termios.tcgetattr(self._file)
            tty.setcbreak(self._file)
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
        if self._mode is not None:
            import termios

            termios.tcsetattr(self._file, termios.TCSADRAIN, self._mode)

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while self._file >= 0 and not self._done.is_set():
            if not select.select([self._file], [], [], _TICK_S)[0]:
                continue
            try:
                data = os.read(self._file, 4096)
            except OSError:  # the terminal is gone
                break
            if not data:
                break
            self._take(decoder.decode(data))
        if not self._done.is_set():
            self._take("\n" if self._pending else "")
            self._on_end()

    def _take(self, text: str) -> None:
        if self._editor is None:
            *lines, self._pending = (self._pending + text).split("\n")
            for line in lines:
                self._on_line(line)
            return
        for key in text:
            entered = self._editor.feed(key)
            if entered is not None:
                self._on_line(entered)
        self._on_key()
