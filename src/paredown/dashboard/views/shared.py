"""What the pages have in common: parsed files, words, and the way from one to another."""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from paredown.dashboard.files import Files
from paredown.dashboard.summary import Summary, summarise
from paredown.judge.words import one_line
from paredown.spec.units import human_seconds

EXPERIMENTS, FRONT, EPISODE, COMPARE, LEARNED, STEER = (
    "Experiments", "Front", "Episode", "Compare", "Learned", "Steer",
)  # fmt: skip
PAGES = (EXPERIMENTS, FRONT, EPISODE, COMPARE, LEARNED, STEER)
PAGE, EXPERIMENT, CHOSEN, COMPARED = "page", "experiment", "episode", "compared"
"""Keys of what is chosen, in the session and in the address."""
_JUMP = "jump"
_WHOLE = 40
"""Rows up to which a table is shown without a bar of its own to scroll it."""
AT_ONCE = 400
"""Episodes whose records are read without being asked for: they take a second."""
QUIET_PLOT = {"displaylogo": False, "responsive": True}


@st.cache_resource
def files() -> Files:
    """Of this process, for all who look."""
    return Files()


def summary_of(folder: Path) -> Summary:
    """An experiment as it stands now."""
    return summarise(folder, files())


def begin_with(key: str, value: object, allowed: Container[object] | None = None) -> None:
    """What a widget shows at first, where neither the visitor nor the address says otherwise.

    Args:
        allowed: what the session may have kept; anything else is of another experiment.
    """
    kept = st.session_state.get(key)
    if kept is not None and (allowed is None or kept in allowed):
        return
    if kept is not None or key not in st.query_params:
        st.session_state[key] = value


def go(page: str, **chosen: object) -> None:
    """Show another page; for callbacks, which run before the page is drawn."""
    st.session_state[PAGE] = page
    for name, value in chosen.items():
        st.session_state[name] = value
    st.session_state[_JUMP] = True


def follow_jump() -> None:
    """Draw the whole page anew, if a callback inside a part of it has led elsewhere."""
    if st.session_state.pop(_JUMP, False):
        st.rerun()


def age(seconds_since_1970: float) -> str:
    """`5 min ago`."""
    return f"{human_seconds(max(time.time() - seconds_since_1970, 0.0))} ago"


def plain(text: str, limit: int = 400) -> str:
    """Somebody else's words, of which nothing is read as Markdown."""
    flat = one_line(text, limit)
    return "".join(f"\\{c}" if c in "\\`*_{}[]()<>#+-!|~$:" else c for c in flat)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, key: str) -> None:
    """A small table of text, as the reports have it."""
    data = [dict(zip(columns, row, strict=True)) for row in rows]
    height: Any = "content" if len(rows) <= _WHOLE else "auto"
    st.dataframe(data, hide_index=True, key=key, height=height)
