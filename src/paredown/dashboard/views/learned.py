"""What was learned, who found what, and what the search cost: the report's own story."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from paredown.dashboard.summary import Summary
from paredown.dashboard.views.shared import AT_ONCE, files, plain, table
from paredown.report.cost import Cost, search_cost
from paredown.report.energy import energy_lines
from paredown.report.findings import find
from paredown.report.story import STORY_COLUMNS, Section, story
from paredown.spec.units import human_seconds
from paredown.store.experiment import read_experiment
from paredown.store.history import HISTORY_FILE

_Story = tuple[tuple[Section, ...], Cost, tuple[str, ...]]


def show(summary: Summary) -> None:
    """The page."""
    if not summary.rows:
        st.info("Nothing has been tried yet.")
        return
    asked = f"read_all_{summary.folder}"
    if len(summary.rows) > AT_ONCE and not st.session_state.get(asked):
        st.info(f"This needs every record of {len(summary.rows)} episodes, which takes a while.")
        if not st.button("read them"):
            return
        st.session_state[asked] = True
    with st.spinner("reading every record"):
        sections, cost, energy = files().get(
            summary.folder / HISTORY_FILE, _read, summary.folder / "final_results.json"
        )
    _cost(cost, energy)
    for number, section in enumerate(sections):
        st.subheader(section.title, anchor=False)
        for line in section.lines:
            st.markdown(plain(line, 2000))
        if section.rows:
            _table(section, number)


def _table(section: Section, number: int) -> None:
    if tuple(section.columns) == STORY_COLUMNS and len(section.rows) > AT_ONCE:
        st.caption(f"the last {AT_ONCE}")
        table(section.columns, section.rows[-AT_ONCE:], key=f"section_{number}")
        return
    table(section.columns, section.rows, key=f"section_{number}")


def _read(history: Path) -> _Story:
    findings = find(read_experiment(history.parent))
    lines = tuple(energy_lines(findings))
    return story(findings), search_cost(findings.record), lines


def _cost(cost: Cost, energy: tuple[str, ...]) -> None:
    st.subheader("Energy and cost", anchor=False)
    with st.container(horizontal=True):
        st.metric("time in all", human_seconds(cost.wall_s), width="content")
        st.metric("compressing", human_seconds(cost.compress_s), width="content")
        st.metric("evaluating", human_seconds(cost.evaluate_s), width="content")
        st.metric("finished", cost.episodes_ok, width="content")
        st.metric("failed", cost.episodes_failed, width="content")
        st.metric("refused before", cost.refused, width="content")
    for line in energy:
        st.markdown(f"- {plain(line, 600)}")
