"""What is printed: foreign words shown, never obeyed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TextIO, final

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult

from paredown.report.escape import escaped


@final
class _Escaping(RenderHook):
    """Escapes control characters in whatever is printed on a console."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Escaped(renderable) for renderable in renderables]


@dataclass(frozen=True)
class _Escaped:
    """A renderable whose texts hold nothing that a terminal obeys."""

    inner: ConsoleRenderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.inner, options):
            # Control segments are rich's own: they move the cursor of a live display.
            yield segment if segment.control else segment._replace(text=escaped(segment.text))


def make_console(
    *, stderr: bool = False, width: int | None = None, file: TextIO | None = None
) -> Console:
    """A console on which names of models, files and records are text and nothing else.

    Args:
        stderr: print there, because standard output is for a document.
        width: columns; None: those of the terminal.
        file: where it prints as a terminal would, colours included, whatever the file is.
    """
    console = Console(
        stderr=stderr, width=width, file=file, force_terminal=None if file is None else True,
        color_system="auto" if file is None else "standard",
        highlight=False, markup=False, emoji=False,
    )  # fmt: skip
    console.push_render_hook(_Escaping())
    return console
