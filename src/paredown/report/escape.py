"""Foreign words on a terminal. Apart from `console.py`, so that errors need no rich."""

from __future__ import annotations

LONGEST = 1500
"""Characters of a message; what is longer repeats somebody's input."""


def escaped(text: str) -> str:
    r"""`text` with what a terminal would obey, or could not show, written out as `\x1b`.

    Ends of lines stay; so do letters of every script.
    """
    return "".join(c if c.isprintable() or c == "\n" else _written_out(c) for c in text)


def one_line(text: str) -> str:
    """A message: one line, escaped, and cut in the middle, as its end says what to do."""
    line = escaped(" ".join(text.split()))
    if len(line) <= LONGEST:
        return line
    half = LONGEST // 2
    return f"{line[:half]} ... {line[-half:]}"


def _written_out(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
