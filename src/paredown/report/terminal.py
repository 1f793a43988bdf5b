"""Tables of results on the terminal: as many columns as fit, and none of them cut off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from paredown.judge.front import ParetoFront
from paredown.judge.recommend import Recommendation
from paredown.language import say
from paredown.report.tables import FRONT_COLUMNS, LEGEND, filled, front_rows
from paredown.spec.result import TrialResult

_LEFT = {
    "#", "episode", "strategy", "kind", "result", "cause", "how", "name", "unit", "source",
    "benchmark", "metric", "what", "subject", "proposed by", "why", "expected → got", "who",
    "which", "method", "for example", "reason",
}  # fmt: skip
_FOLDED = {
    "strategy": 14, "cause": 20, "how": 14, "perplexity": 10, "ms/token": 8, "why": 20,
    "expected → got": 16, "which": 12, "for example": 14, "reason": 20,
}  # fmt: skip
"""Columns that may be folded, and the width that they keep."""
_DROPPED = ("how", "metric", "base", "time", "J/token", "KL", "kind", "speed", "memory", "p90")
"""Columns that go, in this order, when the terminal is too narrow for all."""
_GAP = 2


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table of plain texts; nothing in them is read as markup."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, ...]]
    title: str
    caption: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        columns, _ = filled(self.columns, self.rows)
        shown = [i for i, name in enumerate(self.columns) if name in columns]
        for name in (None, *_DROPPED):
            shown = [i for i in shown if self.columns[i] != name]
            widths = self._widths(shown, options.max_width)
            if sum(widths) + _GAP * (len(shown) - 1) <= options.max_width:
                break
        yield self._table(shown, widths)

    def _widths(self, shown: Sequence[int], room: int) -> list[int]:
        """A width per column; the widest that may be folded give way first."""
        lines = (tuple(map(say, self.columns)), *self.rows)
        widths = [max(cell_len(line[i]) for line in lines) for i in shown]
        least = [
            min(_FOLDED.get(self.columns[i], w), w) for i, w in zip(shown, widths, strict=True)
        ]
        while sum(widths) + _GAP * (len(shown) - 1) > room:
            slack = [k for k, width in enumerate(widths) if width > least[k]]
            if not slack:
                break
            widths[max(slack, key=lambda k: widths[k])] -= 1
        return widths

    def _table(self, shown: Sequence[int], widths: Sequence[int]) -> Table:
        table = Table(
            title=Text(self.title),
            caption=None if self.caption is None else Text(self.caption, style="dim"),
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        for i, width in zip(shown, widths, strict=True):
            name = self.columns[i]
            table.add_column(
                Text(say(name)),
                justify="left" if name in _LEFT else "right",
                overflow="fold",
                width=width,
            )
        for row in self.rows:
            recommended = self.columns[0] == "#" and "*" in row[0]
            table.add_row(*(Text(row[i]) for i in shown), style="bold" if recommended else None)
        return table


def front_table(
    results: Sequence[TrialResult],
    front: ParetoFront,
    recommendation: Recommendation | None = None,
    *,
    title: str | None = None,
) -> TextTable:
    """The front for the terminal, baseline first."""
    return TextTable(
        columns=FRONT_COLUMNS,
        rows=front_rows(results, front, recommendation),
        title=say("Pareto front") if title is None else title,
        caption=say(LEGEND) if recommendation else None,
    )
