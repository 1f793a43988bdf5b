"""One episode: strategy, plan, measurements with their source, items that turned, log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from paredown.dashboard.episode import Detail, detail, flips
from paredown.dashboard.summary import Summary
from paredown.dashboard.views.shared import CHOSEN, QUIET_PLOT, plain, table
from paredown.errors import ConfigError
from paredown.judge.words import NONE
from paredown.report.bits_figure import heat_plot
from paredown.report.commands import compress_command
from paredown.report.plans import summary as plan_summary
from paredown.report.plans import why_high
from paredown.report.story import expected_and_got, who
from paredown.report.tables import (
    MEASUREMENT_COLUMNS,
    SCORE_COLUMNS,
    SPEED_COLUMNS,
    measurement_rows,
    score_notes,
    score_rows,
    speed_rows,
)
from paredown.spec.units import human_seconds

FLIP_COLUMNS = ("item", "turned", "base", "score", "answer of the base", "answer")


def show(summary: Summary) -> None:
    """The page; which episode stands in the address."""
    numbers = [row.episode for row in summary.rows]
    if not numbers:
        st.info("No episode has ended yet.")
        return
    usual = summary.recommended if summary.recommended in numbers else numbers[-1]
    last = max(numbers)
    asked = st.query_params.get(CHOSEN, "")
    if not 0 <= st.session_state.get(CHOSEN, -1) <= last:  # none yet, or of another experiment
        st.session_state[CHOSEN] = min(int(asked), last) if asked.isdigit() else usual
    # A number, not a list: ten thousand strategies in a list would be sent with every look.
    episode = st.number_input(f"episode, of 0 to {last}", 0, last, key=CHOSEN, width=220)
    if asked != str(episode):
        # Not bound to the widget: what another page has set before it is there does not get so far.
        st.query_params[CHOSEN] = str(episode)
    found = detail(summary.folder, int(episode))
    if found is None:
        st.info("This episode has not ended.")
        return
    _head(summary, found)
    _measured(found)
    _plan(found)
    _benchmarks(summary.folder, found)
    _take(summary, found)
    with st.expander("log", expanded=found.result.failure is not None):
        st.code(found.log or "no log was kept", language=None, height=320)


def _head(summary: Summary, found: Detail) -> None:
    result, row = found.result, summary.row(found.result.episode)
    st.code(result.label, language=None, wrap_lines=True)
    if result.failure is not None:
        stage = f" in {result.failure.stage}" if result.failure.stage else ""
        kind = result.failure.kind.value.replace("_", " ")
        st.error(f"**{kind}{stage}:** {plain(result.failure.message, 1200)}")
    for text in result.unmet:
        st.warning(f"limit missed: {plain(text)}")
    if result.verdict is not None:
        st.info(plain(result.verdict, 800))
    told = [
        ("outcome", NONE if row is None else row.outcome),
        ("proposed by", who(result.proposed_by) if result.episode else NONE),
        ("why", NONE if found.decided is None else found.decided.reason),
        ("expected → got", expected_and_got(result)),
        ("took", f"{human_seconds(result.wall_s)} ({human_seconds(result.compress_s)} compressing, "
                 f"{human_seconds(result.evaluate_s)} evaluating)"),
        *(("note", remark) for remark in result.remarks),
    ]  # fmt: skip
    st.markdown("\n".join(f"- {name}: {plain(text, 600)}" for name, text in told if text != NONE))


def _measured(found: Detail) -> None:
    if found.result.measurements:
        st.subheader("Measurements", anchor=False)
        table(MEASUREMENT_COLUMNS, measurement_rows(found.result), key="measurements")
    if found.result.speed:
        st.subheader("Speed over prompts and batches", anchor=False)
        table(_unique(SPEED_COLUMNS), speed_rows(found.result), key="speed")


def _unique(columns: Sequence[str]) -> list[str]:
    """Names of columns told apart: those of decoding repeat those of the prompt."""
    return [f"{name} (decode)" if name in columns[:i] else name for i, name in enumerate(columns)]


def _plan(found: Detail) -> None:
    result = found.result
    if found.plan is None:
        if result.strategy is not None and result.strategy.steps[-1].method == "mixed":
            st.caption("Its plan went with its artifact, which was not kept.")
        return
    st.subheader("Bits by layer", anchor=False)
    st.caption(plain(plan_summary(found.plan)))
    st.plotly_chart(
        heat_plot(found.plan, f"episode {result.episode}"), key="heat", config=QUIET_PLOT,
        theme=None,
    )  # fmt: skip
    st.markdown("\n".join(f"- {plain(line)}" for line in why_high(found.plan)))


def _benchmarks(folder: Path, found: Detail) -> None:
    result = found.result
    if not result.scores:
        return
    st.subheader("Benchmarks", anchor=False)
    table(SCORE_COLUMNS, score_rows([result]), key="scores")
    for note in score_notes(result):
        st.caption(plain(note))
    for score in result.scores if result.episode else ():
        try:
            turned = flips(folder, result, score)
        except ConfigError as error:
            st.warning(plain(str(error)))
            continue
        with st.expander(f"{score.name}: {len(turned)} items answered otherwise than by the base"):
            rows = [
                (f.item, "lost" if f.lost else "gained", f"{f.base_score:g}", f"{f.score:g}",
                 f.base_answer, f.answer)
                for f in turned
            ]  # fmt: skip
            table(FLIP_COLUMNS, rows, key=f"flips_{score.name}")


def _take(summary: Summary, found: Detail) -> None:
    if found.result.strategy is None:
        return
    st.subheader("Take it", anchor=False)
    if found.artifact is None:
        st.caption("The artifact was not kept; make it again, byte for byte:")
    else:
        st.caption("The artifact:")
        st.code(str(found.artifact), language=None, wrap_lines=True)
        st.caption("Make it again, byte for byte:")
    command = compress_command(found.result, summary.config)
    st.code(command, language="bash", wrap_lines=True)
