"""`paredown run --interactive`: a live view of the front, and commands typed below it.

On a terminal the view is the prompt of prompt_toolkit, drawn anew a few times a second: it edits
the line, completes words and remembers earlier lines. What the run prints appears above it.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

from rich.console import Console, Group, RenderableType
from rich.segment import Segment, Segments
from rich.text import Text

from paredown.cli.pipe import PipedLines
from paredown.coordinate.steering import Steering
from paredown.report.console import make_console
from paredown.report.live import RunProgress
from paredown.spec.run import Objective
from paredown.spec.steering import COMMANDS

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import ANSI
    from prompt_toolkit.input import Input

_HINT = "type help, or: pause, try STRATEGY, exclude METHOD, front, stop"
_OTHER_LINES = 8
"""Lines of the terminal that the front leaves free: bar, wishes, prompt, and some of the log."""
_REFRESH_S = 0.25
_JOIN_S = 1.0


@final
class InteractiveProgress(RunProgress):
    """Listener that shows the front, the bar and the typed line, and passes lines to `steering`.

    Without a terminal the front is printed after each episode, and commands are read all the same.
    """

    def __init__(
        self,
        console: Console,
        episodes: int,
        objectives: tuple[Objective, ...],
        steering: Steering,
    ) -> None:
        super().__init__(console, episodes, objectives, show_front=not console.is_terminal)
        self.steering = steering
        self._notice = ""
        self._front: RenderableType | None = None
        self._wishes = ""
        at_keys = console.is_terminal and sys.stdin is not None and sys.stdin.isatty()
        self._commands: Prompt | PipedLines = (
            Prompt(self._view, self._entered, width=lambda: console.width)
            if at_keys
            else PipedLines(self._entered, on_end=self._ended)
        )

    def __enter__(self) -> Self:
        # Not the bar of the base class: two displays cannot share the last lines of a terminal.
        if not self.console.is_terminal:
            super().__enter__()
        self._commands.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._commands.__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)

    def __call__(self, event: str, fields: dict[str, Any]) -> None:
        super().__call__(event, fields)
        if event == "paused":
            self._notice = "paused; resume goes on, stop ends the run"
        elif event == "resumed":
            self._notice = ""
        elif event in {"result", "earlier"} and self.console.is_terminal:
            self._front = self._front_table()
        if event in {"decision", "result", "wishes"} and fields.get("episode") != 0:
            self._wishes = str(self.steering.wishes())

    def _entered(self, line: str) -> None:
        """A command, its answer above the view."""
        if not line.strip() or line.lstrip().startswith("#"):
            return
        answer = self.steering.command(line)
        told = Text(f"> {' '.join(line.split())}", style="cyan")
        for part in answer.splitlines():
            told.append(f"\n  {part}", style="default")
        self.console.print(told, soft_wrap=True)  # at once: others print, too
        self._wishes = str(self.steering.wishes())

    def _ended(self) -> None:
        if self.steering.close():
            self.console.print(Text("no more commands can come: going on"), soft_wrap=True)

    def _view(self) -> RenderableType:
        """All above the typed line."""
        parts: list[RenderableType] = []
        if self._front is not None:
            parts.append(self._cut(self._front))
        parts.append(Text("─" * self.console.width, style="dim", no_wrap=True))
        if self._notice:
            parts.append(Text(self._notice, style="bold yellow"))
        else:
            parts.append(self.now())
        if self._wishes:
            parts.append(Text(self._wishes, style="yellow", overflow="ellipsis", no_wrap=True))
        return Group(*parts)

    def _cut(self, table: RenderableType) -> RenderableType:
        """As many lines as leave room for the rest: the prompt must stay visible."""
        lines = self.console.render_lines(table, pad=False)
        room = max(self.console.height - _OTHER_LINES, 4)
        if len(lines) <= room:
            return table
        shown = [*lines[: room - 1], [Segment(f"... {len(lines) - room + 1} lines more: front")]]
        return Segments([part for line in shown for part in (*line, Segment.line())])


@final
class Prompt:
    """A line that is typed below a view, in a thread of its own while its context is open."""

    def __init__(
        self,
        view: Callable[[], RenderableType],
        on_line: Callable[[str], None],
        *,
        width: Callable[[], int],
        keys: Input | None = None,
    ) -> None:
        """
        Args:
            view: what stands above the line, asked for at every refresh.
            on_line: given each whole line.
            width: columns of the terminal now.
            keys: where they come from; None: the terminal.
        """
        self._view, self._on_line, self._width = view, on_line, width
        self._keys = keys
        self._closing = threading.Event()
        self._session: PromptSession[str] | None = None
        self._thread = threading.Thread(target=self._ask, name="commands", daemon=True)
        self._patch: Any = None

    def __enter__(self) -> Self:
        from prompt_toolkit.patch_stdout import patch_stdout

        self._session = _session(self._message, self._keys)
        # From here on whatever anybody prints goes above the prompt, its colours kept.
        self._patch = patch_stdout(raw=True)
        self._patch.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        app = None if self._session is None else self._session.app
        if app is not None and app.loop is not None and app.is_running:
            app.loop.call_soon_threadsafe(_leave, app)
        self._thread.join(_JOIN_S)  # a command under way must not hold up the end
        self._patch.__exit__(kind, error, trace)

    @property
    def text(self) -> str:
        """What is on the line now."""
        return "" if self._session is None else self._session.default_buffer.text

    def _ask(self) -> None:
        assert self._session is not None
        while not self._closing.is_set():
            try:
                # Signals are the main thread's: Ctrl-C arrives here as a key, and is sent on.
                line = self._session.prompt(handle_sigint=False)
            except KeyboardInterrupt:
                os.kill(os.getpid(), signal.SIGINT)
                continue
            except EOFError:  # Ctrl-D, or the end of the context
                continue
            self._on_line(line)

    def _message(self) -> ANSI:
        """The view and the mark of the prompt, as prompt_toolkit takes them."""
        from prompt_toolkit.formatted_text import ANSI

        if self._closing.is_set():
            return ANSI("")  # the last drawing stays on the screen: let it be empty
        text = io.StringIO()
        console = make_console(file=text, width=self._width())
        console.print(self._view())
        return ANSI(f"{text.getvalue()}\x1b[1;36m> \x1b[0m")


def _session(message: Callable[[], ANSI], keys: Input | None) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.formatted_text import FormattedText
    from prompt_toolkit.output.defaults import create_output
    from prompt_toolkit.output.vt100 import Vt100_Output

    from paredown.methods import registry

    output = create_output(sys.stdout)
    if isinstance(output, Vt100_Output):
        # Without asking where the cursor is: the answer of a slow terminal would be left on the
        # shell's line when the run ends.
        output.enable_cpr = False
    words = [*(name.split()[0] for name in COMMANDS), *registry.names()]
    return PromptSession(
        message,
        input=keys,
        output=output,
        completer=WordCompleter(words),
        complete_while_typing=False,
        placeholder=FormattedText([("fg:ansibrightblack", _HINT)]),
        refresh_interval=_REFRESH_S,
        erase_when_done=True,
    )


def _leave(app: Any) -> None:
    """End the prompt from outside, unless a key has ended it just now."""
    if app.is_running and not app.future.done():
        app.exit(exception=EOFError)
