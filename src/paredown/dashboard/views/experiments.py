"""All experiments: name, model, state, best, age."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from paredown.dashboard.queries import Overview, overview
from paredown.dashboard.views.shared import EXPERIMENT, FRONT, age, files, go

_TABLE = "experiments_table"


def show(root: Path, folders: Sequence[Path]) -> None:
    """The list; a row leads to its experiment."""
    st.header("Experiments", anchor=False)
    if not folders:
        st.info(f"There is no experiment in {root} yet. To begin one:")
        st.code("paredown run -m demo --episodes 6", language="bash")
        st.caption("This page shows it as soon as it runs.")
        return
    found = [overview(folder, files()) for folder in folders]
    running = sum(one.state == "running" for one in found)
    st.caption(f"{len(found)} in {root}, {running} running. Choose a row to open one.")
    st.dataframe(
        [_row(one) for one in found],
        hide_index=True,
        key=_TABLE,
        on_select=lambda: _chosen(found),
        selection_mode="single-row",
        column_config={
            "done": st.column_config.ProgressColumn(
                "done", format="percent", min_value=0.0, max_value=1.0, width="small"
            ),
            "best": st.column_config.TextColumn("best so far", width="large"),
        },
    )
    for one in found:
        if one.state == "damaged":
            st.warning(f"{one.name}: {one.best}")


def _row(one: Overview) -> dict[str, Any]:
    return {
        "name": one.name,
        "state": one.state,
        "done": min(one.done / one.episodes, 1.0) if one.episodes else None,
        "episodes": f"{one.done} of {one.episodes}",
        "best": "" if one.state == "damaged" else one.best,
        "model": one.model,
        "changed": age(one.changed),
    }


def _chosen(found: Sequence[Overview]) -> None:
    rows = st.session_state[_TABLE]["selection"]["rows"]
    if rows and found[rows[0]].state != "damaged":
        go(FRONT, **{EXPERIMENT: found[rows[0]].name})
