"""Two or more episodes side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from paredown.dashboard.episode import read_plan
from paredown.dashboard.summary import Summary
from paredown.dashboard.views.shared import COMPARED, begin_with, plain, table
from paredown.judge.words import NONE, one_line, with_unit
from paredown.report.plans import differences
from paredown.spec.plan import PlanRecord
from paredown.spec.result import TrialResult
from paredown.store.experiment import read_result

_DIFFERENCES = 500


def show(summary: Summary) -> None:
    """The page; which episodes stands in the address."""
    numbers = [row.episode for row in summary.rows]
    if len(numbers) < 2:
        st.info("There are not two episodes to compare yet.")
        return
    usual = [n for n in (0, summary.recommended, summary.runner_up) if n in numbers]
    usual = list(dict.fromkeys([*usual, *numbers]))[: max(len(set(usual)), 2)]
    kept = st.session_state.get(COMPARED, [])
    begin_with(COMPARED, usual, [kept] if set(kept) <= set(numbers) else [])
    chosen = st.multiselect("episodes", numbers, key=COMPARED, bind="query-params")
    if len(chosen) < 2:
        st.info("Choose two or more.")
        return
    found = [read_result(summary.folder, episode) for episode in chosen]
    results = [result for result in found if result is not None]
    columns, rows = side_by_side(results)
    table(columns, rows, key="side_by_side")
    st.caption("± is half of a 95 % interval.")
    for result in results:
        st.markdown(f"**{result.episode}**: {plain(result.label)}"
                    + (f"  \n{plain(result.verdict)}" if result.verdict else ""))  # fmt: skip
    _plans(summary.folder, results)


def side_by_side(results: Sequence[TrialResult]) -> tuple[list[str], list[tuple[str, ...]]]:
    """A row per quantity, a column per episode."""
    names = dict.fromkeys(m.name for result in results for m in result.measurements)
    columns = ["quantity", *(f"episode {result.episode}" for result in results)]
    rows = [("outcome", *(r.failure.kind.value if r.failure else "ok" for r in results))]
    rows += [
        (name.replace("_", " "), *(with_unit(result.get(name)) for result in results))
        for name in names
    ]
    if any(result.unmet for result in results):
        rows.append(("limits missed", *("; ".join(r.unmet) or NONE for r in results)))
    return columns, rows


def _plans(folder: Path, results: Sequence[TrialResult]) -> None:
    """What two plans treat differently."""
    plans: list[tuple[int, PlanRecord]] = []
    for result in results:
        plan = None if result.artifact is None else read_plan(folder / result.artifact)
        if plan is not None:
            plans.append((result.episode, plan))
    if len(plans) != 2:
        return
    (first, one), (second, two) = plans
    different = differences(one, two)
    st.subheader("Layers with other bits", anchor=False)
    st.caption(f"{len(different)} of {len(one.by_layer)} layers differ.")
    rows = [
        (one_line(d.layer), d.first or NONE, d.second or NONE) for d in different[:_DIFFERENCES]
    ]
    table(("layer", f"episode {first}", f"episode {second}"), rows, key="plan_differences")
