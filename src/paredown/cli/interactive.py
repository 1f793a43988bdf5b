"""`paredown run --interactive`: a live view of the front, and commands typed below it."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self, final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.segment import Segment, Segments
from rich.text import Text

from paredown.cli.keys import Keyboard, LineEditor
from paredown.cli.live import RunProgress
from paredown.coordinate.steering import COMMANDS, Steering
from paredown.spec.run import Objective

_HINT = "type help, or: pause, try STRATEGY, exclude METHOD, front, stop"
_OTHER_LINES = 8
"""Lines of the terminal that the front leaves free: bar, wishes, prompt, and some of the log."""
_REFRESHES = 4


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
        from paredown.methods import registry

        self.steering = steering
        self._shown: tuple[str, float, float | None] = ("starting", 0.0, None)
        self._since = time.monotonic()
        self._notice = ""
        self._front: RenderableType | None = None
        self._wishes = ""
        at_keys = console.is_terminal and sys.stdin is not None and sys.stdin.isatty()
        words = [*(name.split()[0] for name in COMMANDS), *registry.names()]
        self._editor = LineEditor(words) if at_keys else None
        self._keyboard = Keyboard(
            self._entered, editor=self._editor, on_key=self._refresh, on_end=self._ended
        )
        if console.is_terminal:
            self.live = Live(
                console=console, refresh_per_second=_REFRESHES, transient=True,
                get_renderable=self._view, vertical_overflow="visible",
            )  # fmt: skip

    def __enter__(self) -> Self:
        super().__enter__()
        self._keyboard.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._keyboard.__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)

    def __call__(self, event: str, fields: dict[str, Any]) -> None:
        super().__call__(event, fields)
        if event == "paused":
            self._notice = "paused; resume goes on, stop ends the run"
        elif event == "resumed":
            self._notice = ""
        elif event == "decision" and fields["action"] != "end":
            self.show(f"episode {fields['episode']}: starting", self._shown[1], 0.0)
        elif event in {"result", "earlier"} and self.console.is_terminal:
            self._front = self._front_table()
        if event in {"decision", "result", "wishes"} and fields.get("episode") != 0:
            self._wishes = str(self.steering.wishes())

    def show(self, what: str, done: float, elapsed: float, left: float | None = None) -> None:
        if not self.console.is_terminal:
            super().show(what, done, elapsed, left)
            return
        self._shown, self._since = (what, done, left), time.monotonic()

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

    def _refresh(self) -> None:
        self.live.refresh()

    def _view(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._front is not None:
            parts.append(self._cut(self._front))
        parts.append(Text("─" * self.console.width, style="dim", no_wrap=True))
        if self._notice:
            parts.append(Text(self._notice, style="bold yellow"))
        else:
            what, done, left = self._shown  # times go on although nothing is heard
            now = time.monotonic()
            left = None if left is None else max(left - (now - self._since), 0.0)
            parts.append(self.line(what, done, now - self._start, left))
        if self._wishes:
            parts.append(Text(self._wishes, style="yellow", overflow="ellipsis", no_wrap=True))
        if self._editor is not None:
            parts.append(self._prompt(self._editor.text))
        return Group(*parts)

    def _prompt(self, typed: str) -> Text:
        shown = typed[-max(self.console.width - 4, 10) :]
        cursor = ("_", "blink bold")
        if typed:
            return Text.assemble(("> ", "bold cyan"), shown, cursor)
        return Text.assemble(("> ", "bold cyan"), cursor, (f" {_HINT}", "dim"), overflow="ellipsis",
                             no_wrap=True)  # fmt: skip

    def _cut(self, table: RenderableType) -> RenderableType:
        """As many lines as leave room for the rest: the prompt must stay visible."""
        lines = self.console.render_lines(table, pad=False)
        room = max(self.console.height - _OTHER_LINES, 4)
        if len(lines) <= room:
            return table
        shown = [*lines[: room - 1], [Segment(f"... {len(lines) - room + 1} lines more: front")]]
        return Segments([part for line in shown for part in (*line, Segment.line())])
