"""The table of episodes: filtered, sorted, paged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from paredown.dashboard.axes import Axis
from paredown.dashboard.summary import Outcome, Row, Summary
from paredown.dashboard.views.shared import CHOSEN, EPISODE, go

_TABLE = "episodes_table"
_FEW, _HEIGHT = 16, 620
"""Rows up to which all are shown at once, and pixels of a longer table."""
_SIZES = (50, 200, 1000)
_PLAIN_COLUMNS = ("episode", "strategy", "outcome", "time")


def show(summary: Summary, known: dict[str, Axis]) -> None:
    """Filters above, the table below; a row leads to its episode."""
    st.subheader("Episodes", anchor=False)
    if not summary.rows:
        st.caption("None has ended yet.")
        return
    rows = _filtered(summary.rows)
    columns = st.columns(4)
    rows = _sorted(rows, known, columns)
    page = _page(len(rows), columns)
    shown = page_of(rows, *page)
    with_why = any(row.why for row in shown)
    st.dataframe(
        [_cells(row, known, with_why=with_why) for row in shown],
        hide_index=True, key=_TABLE, selection_mode="single-row", placeholder="-",
        height=_HEIGHT if len(shown) > _FEW else "content",
        on_select=lambda: _chosen(shown),
        column_config={
            "strategy": st.column_config.TextColumn(width="medium"),
            "why": st.column_config.TextColumn(width="medium"),
            "time": st.column_config.NumberColumn("time, s", format="%.0f"),
            **{
                name: st.column_config.NumberColumn(name, help=axis.title, format="%.4g")
                for name, axis in known.items()
            },
        },
    )  # fmt: skip


def _filtered(rows: Sequence[Row]) -> list[Row]:
    left, middle, right = st.columns([2, 2, 2])
    with left:
        text = st.text_input("strategy contains", key="contains", bind="query-params")
    with middle:
        outcomes = st.multiselect(
            "outcome", list(get_args(Outcome)), key="outcome", bind="query-params"
        )
    with right:
        methods = st.multiselect(
            "method", sorted({row.method for row in rows}), key="method", bind="query-params"
        )
    return matching(rows, text or "", outcomes, methods)


def matching(
    rows: Sequence[Row], text: str, outcomes: Sequence[str], methods: Sequence[str]
) -> list[Row]:
    """The rows that pass all filters; an empty one passes everything."""
    wanted = text.casefold().strip()
    return [
        row
        for row in rows
        if (not wanted or wanted in row.label.casefold())
        and (not outcomes or row.outcome in outcomes)
        and (not methods or row.method in methods)
    ]


def _sorted(
    rows: list[Row], known: dict[str, Axis], columns: Sequence[DeltaGenerator]
) -> list[Row]:
    with columns[0]:
        by = st.selectbox("sorted by", [*_PLAIN_COLUMNS, *known], key="sort", bind="query-params")
    with columns[1]:
        order = st.segmented_control(
            "order", ["ascending", "descending"], default="ascending", required=True,
            key="order", bind="query-params",
        )  # fmt: skip
    return ordered(rows, by or "episode", known, descending=order == "descending")


def ordered(rows: Sequence[Row], by: str, known: dict[str, Axis], *, descending: bool) -> list[Row]:
    """Sorted; what has no such number comes last, in either order."""

    def value(row: Row) -> Any:
        match by:
            case "episode":
                return row.episode
            case "strategy":
                return row.label.casefold()
            case "outcome":
                return row.outcome
            case "time":
                return row.values.get("wall_s")
            case _:
                return known[by].value(row)

    with_value = [row for row in rows if value(row) is not None]
    without = [row for row in rows if value(row) is None]
    return sorted(with_value, key=value, reverse=descending) + without


def _page(count: int, columns: Sequence[DeltaGenerator]) -> tuple[int, int]:
    """First row and number of rows to show."""
    with columns[2]:
        size = st.selectbox("rows", _SIZES, key="rows", bind="query-params") or _SIZES[0]
    pages = max(math.ceil(count / size), 1)
    with columns[3]:
        # A filter may have left fewer pages than the one that was shown.
        if st.session_state.get("page_number", 1) > pages:
            st.session_state["page_number"] = pages
        number = int(st.number_input(f"page, of {pages}", 1, pages, key="page_number"))
    first = (number - 1) * size
    last = min(first + size, count)
    st.caption(f"{first + 1 if count else 0} to {last} of {count}. Choose a row for its detail.")
    return first, size


def page_of(rows: Sequence[Row], first: int, size: int) -> Sequence[Row]:
    """The rows of a page."""
    return rows[first : first + size]


def _cells(row: Row, known: dict[str, Axis], *, with_why: bool) -> dict[str, Any]:
    return {
        "episode": row.episode,
        "strategy": row.label,
        "outcome": row.outcome,
        **({"why": row.why} if with_why else {}),
        **{name: axis.value(row) for name, axis in known.items()},
        "time": row.values.get("wall_s"),
    }


def _chosen(rows: Sequence[Row]) -> None:
    selected = st.session_state[_TABLE]["selection"]["rows"]
    if selected:
        go(EPISODE, **{CHOSEN: rows[selected[0]].episode})
