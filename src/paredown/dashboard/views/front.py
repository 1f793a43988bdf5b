"""One experiment: how far it is, its front, its best trials, and the table of all episodes."""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

from paredown.dashboard.axes import Axis, axes, limit_lines
from paredown.dashboard.parallel import best_rows, parallel_plot
from paredown.dashboard.plots import front_plot
from paredown.dashboard.summary import Summary
from paredown.dashboard.views import episodes
from paredown.dashboard.views.shared import (
    AT_ONCE,
    CHOSEN,
    EPISODE,
    QUIET_PLOT,
    begin_with,
    go,
    plain,
)
from paredown.judge.limits import in_limits
from paredown.report.figures import search_space_png
from paredown.report.findings import find
from paredown.report.write import FIGURE_FILE, FRONT_FILE, PAGE_FILE, REPORT_FILE
from paredown.spec.units import human_seconds
from paredown.store.experiment import read_experiment
from paredown.store.history import HISTORY_FILE

_FRONT, _PARALLEL = "front_plot", "parallel"
_SUMMARY_FILES = {
    HISTORY_FILE: "text/csv", FIGURE_FILE: "image/png", REPORT_FILE: "text/markdown",
    PAGE_FILE: "text/html", FRONT_FILE: "application/json",
}  # fmt: skip


def show(summary: Summary) -> None:
    """The page."""
    head(summary)
    known = axes(summary)
    measured = [row for row in summary.trials if row.outcome != "failed"]
    if not measured:
        why = "every trial so far has failed" if summary.trials else "the base comes first"
        st.info(f"No trial is measured yet: {why}.")
    elif len(known) >= 2:
        _front(summary, known)
        _parallel(summary, known)
    episodes.show(summary, known)
    _downloads(summary)


def head(summary: Summary) -> None:
    """State, progress, time left, and what to take."""
    done, whole = len(summary.trials), summary.config.episodes
    failed = sum(row.outcome == "failed" for row in summary.trials)
    st.header(plain(summary.folder.name), anchor=False)
    limits = in_limits(summary.config.limits)
    st.caption(plain(f"{summary.config.model}, limits: {limits or 'none'}"))
    moment = summary.moment
    left = None
    if moment is not None and moment.left_s is not None:
        left = max(moment.left_s - max(time.time() - moment.time, 0.0), 0.0)
    state = summary.state
    if moment is not None and (moment.paused or moment.stopping):
        state_text = "stopping" if moment.stopping else "paused"
    else:
        state_text = state
    with st.container(horizontal=True):
        st.metric("state", state_text, width="content")
        st.metric("episodes", f"{done} of {whole}", width="content")
        st.metric("failed", failed, width="content")
        st.metric("on the front", len(summary.measurements), width="content")
        if state == "running":
            known = "not known yet" if left is None else human_seconds(left)
            st.metric("time left", known, width="content")
    if state == "running":
        told = "" if moment is None else plain(_doing(moment.episode, moment.stage, moment.message))
        st.progress(min(done / whole, 1.0), text=told or "at work")
    elif summary.stop_reason and state == "finished":
        st.caption(f"ended: {plain(summary.stop_reason)}")
    chosen = summary.row(summary.recommended)
    if chosen is not None:
        what = f"Take {plain(chosen.label)}** (episode {chosen.episode}"
        what = "Keep the uncompressed model** (episode 0" if chosen.episode == 0 else what
        st.success(f"**{what}): {plain(summary.recommendation, 1200)}")
    elif summary.recommendation:
        st.warning(f"No recommendation: {plain(summary.recommendation, 1200)}")


def _doing(episode: int | None, stage: str, message: str) -> str:
    if episode is None:
        return message
    return f"episode {episode}: " + ", ".join(filter(None, (stage, message)))


def _front(summary: Summary, known: dict[str, Axis]) -> None:
    names = list(known)
    st.subheader("Front", anchor=False)
    left, right = st.columns(2)
    usual_x = "size" if "size" in known else names[1]
    with left:
        begin_with("x", usual_x, names)
        x = st.selectbox("across", names, key="x", bind="query-params")
    with right:
        begin_with("y", names[0], names)
        y = st.selectbox("up", names, key="y", bind="query-params")
    x_axis, y_axis = known[x or usual_x], known[y or names[0]]
    limits = limit_lines(summary, x_axis), limit_lines(summary, y_axis)
    st.plotly_chart(
        front_plot(summary, x_axis, y_axis, limits),
        key=_FRONT, on_select=lambda: _picked(_FRONT), selection_mode="points",
        config=QUIET_PLOT, theme=None,
    )  # fmt: skip
    st.caption(
        "Filled: on the front, with 95 % intervals. Diamonds: bits chosen layer by layer; circles: "
        "the same everywhere; squares: pipelines; star: the uncompressed model. Red: your limits. "
        "Choose a point to see its episode."
    )


def _picked(plot: str) -> None:
    points: list[Any] = st.session_state[plot]["selection"]["points"]
    found = [point.get("customdata") for point in points]
    episode = found[0] if found else None
    if isinstance(episode, list):
        episode = episode[0]
    if episode is not None:
        go(EPISODE, **{CHOSEN: int(episode)})


def _parallel(summary: Summary, known: dict[str, Axis]) -> None:
    st.subheader("The best in all quantities", anchor=False)
    left, right = st.columns(2)
    with left:
        by = st.selectbox("best by", list(known), key="best_by", bind="query-params")
    with right:
        count = st.number_input("how many", 2, 200, 20, key="best_count", bind="query-params")
    chosen = known[by or next(iter(known))]
    rows = best_rows(summary, list(known.values()), chosen, int(count))
    if len(rows) < 2:
        st.caption("Fewer than two trials have all quantities measured.")
        return
    st.plotly_chart(
        parallel_plot(rows, list(known.values()), chosen),
        key=_PARALLEL, on_select=lambda: _picked(_PARALLEL), selection_mode="points",
        config=QUIET_PLOT, theme=None,
    )  # fmt: skip
    st.caption("A line per trial, better at the top. Choose a line to see its episode.")


def _downloads(summary: Summary) -> None:
    st.subheader("Take away", anchor=False)
    with st.container(horizontal=True):
        for name, kind in _SUMMARY_FILES.items():
            path = summary.folder / name
            if path.is_file():
                st.download_button(
                    name, path.read_bytes, file_name=f"{summary.folder.name}-{name}", mime=kind,
                    key=f"download_{name}", on_click="ignore",
                )  # fmt: skip
        if not (summary.folder / FIGURE_FILE).is_file() and 0 < len(summary.rows) <= AT_ONCE:
            st.download_button(
                FIGURE_FILE, lambda: search_space_png(find(read_experiment(summary.folder))),
                file_name=f"{summary.folder.name}-{FIGURE_FILE}", mime="image/png",
                key="download_figure", on_click="ignore",
            )  # fmt: skip
    if not (summary.folder / REPORT_FILE).is_file():
        st.caption("The report is written at the end of the run, or now by:")
        st.code(f"paredown report {summary.folder}", language="bash")
