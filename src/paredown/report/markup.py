"""Tables in HTML, for the page and for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from paredown.language import say
from paredown.report.tables import filled


def html_table(columns: Sequence[str], rows: Sequence[tuple[str, ...]], style: str = "") -> str:
    """A table as HTML, its headings said, every cell escaped; `style` is its class."""
    columns, rows = filled(columns, rows)
    head = "".join(f"<th>{escape(say(name))}</th>" for name in columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    kind = f' class="{style}"' if style else ""
    return f"<table{kind}>\n<tr>{head}</tr>\n{body}\n</table>"
