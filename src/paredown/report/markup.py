"""Tables in HTML, for the page and for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from paredown.language import say
from paredown.report.tables import filled


def html_table(
    columns: Sequence[str], rows: Sequence[tuple[str, ...]], style: str = "",
    links: Sequence[str | None] = (),
) -> str:  # fmt: skip
    """A table as HTML, its headings said, every cell escaped.

    Args:
        style: its class.
        links: where the first cell of each row leads; none of them: nowhere.
    """
    columns, rows = filled(columns, rows)
    head = "".join(f"<th>{escape(say(name))}</th>" for name in columns)
    body = []
    for number, row in enumerate(rows):
        cells = [escape(cell) for cell in row]
        if links and (to := links[number]) is not None:
            cells[0] = f'<a href="{escape(to)}">{cells[0]}</a>'
        body.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    kind = f' class="{style}"' if style else ""
    lines = "\n".join(body)
    return f"<table{kind}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>"
