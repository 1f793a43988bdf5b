"""A document of sections as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import final

from paredown.judge.words import one_line
from paredown.language import Language
from paredown.report.style import FONTS

_SPECIAL = re.compile(r"([\\`*_\[\]#|~$])")
_LONGEST = 600
"""Characters of a cell or a line that are shown; answers of models may be of any length."""
_PAGE = """<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.6 {fonts}; color: #222;
        margin: 1.5em auto; max-width: 1100px; padding: 0 1em; }}
h1 {{ font-size: 1.5em; }}
h2 {{ font-size: 1.15em; margin-top: 1.8em; border-bottom: 1px solid #ddd; }}
table {{ border-collapse: collapse; margin: 1em 0; }}
th, td {{ padding: .3em .8em; border-bottom: 1px solid #ddd; text-align: left;
          vertical-align: top; overflow-wrap: anywhere; }}
th {{ white-space: nowrap; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


@final
@dataclass(frozen=True)
class Table:
    """Rows under columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@final
@dataclass(frozen=True)
class Bullets:
    """A list of lines."""

    lines: tuple[str, ...]


Block = str | Table | Bullets


@final
@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: tuple[Block, ...]


@final
@dataclass(frozen=True, kw_only=True)
class Document:
    """A whole report.

    Attributes:
        language: for the page, as in BCP 47.
        lead: what stands above the first section.
    """

    language: Language
    title: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...]


def markdown(document: Document) -> str:
    """GitHub's Markdown; what models and files say in it is text and nothing else."""
    parts = [f"# {_text(document.title)}", *map(_text, document.lead)]
    for section in document.sections:
        parts.append(f"## {_text(section.title)}")
        parts += [_markdown(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def html(document: Document) -> str:
    """One page; it asks the network for nothing and runs no script."""
    parts = [f"<p>{_shown(line)}</p>" for line in document.lead]
    for section in document.sections:
        parts.append(f"<h2>{_shown(section.title)}</h2>")
        parts += [_html(block) for block in section.blocks]
    return _PAGE.format(
        language=document.language, fonts=FONTS[document.language],
        title=_shown(document.title), body="\n".join(parts),
    )  # fmt: skip


def _markdown(block: Block) -> str:
    if isinstance(block, str):
        return _text(block)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_text(line)}" for line in block.lines)
    return "\n".join([_row(block.columns), "|---" * len(block.columns) + "|",
                      *map(_row, block.rows)])  # fmt: skip


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_text(cell) for cell in cells) + " |"


def _text(text: str) -> str:
    flat = one_line(text, _LONGEST)
    return _SPECIAL.sub(r"\\\1", flat.replace("&", "&amp;").replace("<", "&lt;"))


def _html(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{_shown(block)}</p>"
    if isinstance(block, Bullets):
        items = "\n".join(f"<li>{_shown(line)}</li>" for line in block.lines)
        return f"<ul>\n{items}\n</ul>"
    head = "".join(f"<th>{_shown(name)}</th>" for name in block.columns)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{_shown(cell)}</td>" for cell in row) + "</tr>" for row in block.rows
    )
    return f"<table>\n<tr>{head}</tr>\n{rows}\n</table>"


def _shown(text: str) -> str:
    return escape(one_line(text, _LONGEST))
