"""Tables of results: rows of plain text for any medium, and rich tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from paredown.report.findings import finished_baseline
from paredown.report.front import Front
from paredown.report.recommend import Recommendation
from paredown.report.words import (
    NONE,
    loss,
    one_line,
    ratio,
    signed_percent,
    speedup,
    times,
    with_error,
)
from paredown.spec.result import TrialResult
from paredown.spec.units import human_bytes, human_seconds

FRONT_COLUMNS = (
    "episode", "strategy", "perplexity", "loss", "KL", "ms/token", "speed-up",
    "memory", "size", "ratio",
)  # fmt: skip
EPISODE_COLUMNS = ("episode", "strategy", "kind", "result", *FRONT_COLUMNS[2:], "time")
MEASUREMENT_COLUMNS = ("name", "value", "unit", "stderr", "n", "source", "how")
_WORDS = {"episode", "strategy", "kind", "result", "cause", "how", "name", "unit", "source"}
_STRATEGY_WIDTH = 12
LEGEND = "* recommended, + runner-up, k knee, ! misses a limit"

Rows = list[tuple[str, ...]]


def front_rows(
    results: Sequence[TrialResult], front: Front, recommendation: Recommendation | None = None
) -> Rows:
    """One row per result on the front, in the order of `FRONT_COLUMNS`.

    The baseline comes first, on the front or not; the others follow from largest to smallest.
    """
    baseline = finished_baseline(tuple(results))
    chosen = [r for r in results if r in front and r.episode > 0]
    chosen.sort(key=lambda r: (-(r.value("size") or 0.0), r.episode))
    return [
        (_marked(r, front, recommendation), r.label, *_numbers(r, baseline))
        for r in ([baseline] if baseline is not None else []) + chosen
    ]


def episode_rows(
    results: Sequence[TrialResult], front: Front, recommendation: Recommendation | None = None
) -> Rows:
    """One row per episode, failures included, in the order of `EPISODE_COLUMNS`."""
    baseline = finished_baseline(tuple(results))
    return [
        (
            _marked(r, front, recommendation),
            r.label,
            r.kind,
            _outcome(r, front),
            *_numbers(r, baseline),
            human_seconds(r.wall_s),
        )
        for r in results
    ]


def measurement_rows(result: TrialResult) -> Rows:
    """One row per measurement, in the order of `MEASUREMENT_COLUMNS`."""
    return [
        (
            m.name,
            f"{m.value:.6g}",
            m.unit.value,
            NONE if m.stderr is None else f"{m.stderr:.2g}",
            str(m.n),
            m.source,
            m.how,
        )
        for m in result.measurements
    ]


def front_table(
    results: Sequence[TrialResult],
    front: Front,
    recommendation: Recommendation | None = None,
    *,
    title: str = "Pareto front",
) -> Table:
    """The front for the terminal, baseline first."""
    rows = front_rows(results, front, recommendation)
    return text_table(FRONT_COLUMNS, rows, title=title, caption=LEGEND if recommendation else None)


def text_table(
    columns: Sequence[str],
    rows: Sequence[tuple[str, ...]],
    *,
    title: str | None = None,
    caption: str | None = None,
) -> Table:
    """A rich table of plain texts; nothing in them is read as markup."""
    table = Table(
        title=None if title is None else Text(title),
        caption=None if caption is None else Text(caption, style="dim"),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in columns:
        words = name in _WORDS
        table.add_column(
            Text(name),
            justify="left" if words else "right",
            overflow="fold",
            min_width=_STRATEGY_WIDTH if name == "strategy" else None,
        )
    for row in rows:
        recommended = "*" in row[0]
        table.add_row(*(Text(cell) for cell in row), style="bold" if recommended else None)
    return table


def failures(results: Sequence[TrialResult]) -> Rows:
    """episode, strategy, cause: one row per failed episode."""
    return [
        (
            str(r.episode),
            r.label,
            f"{r.failure.kind}{f' in {r.failure.stage}' if r.failure.stage else ''}: "
            + one_line(r.failure.message),
        )
        for r in results
        if r.failure is not None
    ]


def _numbers(result: TrialResult, baseline: TrialResult | None) -> tuple[str, ...]:
    is_baseline = result.episode == 0
    memory, size = result.value("peak_memory"), result.value("size")
    return (
        with_error(result.get("perplexity")),
        NONE if is_baseline else signed_percent(loss(result, baseline)),
        NONE if is_baseline else with_error(result.get("kl")),
        with_error(result.get("decode_latency")),
        NONE if is_baseline else times(speedup(result, baseline)),
        NONE if memory is None else human_bytes(memory),
        NONE if size is None else human_bytes(size),
        NONE if is_baseline else times(ratio(result, baseline)),
    )


def _marked(result: TrialResult, front: Front, recommendation: Recommendation | None) -> str:
    marks = ""
    if recommendation is not None:
        if result.episode == recommendation.episode:
            marks += "*"
        if result.episode == recommendation.runner_up:
            marks += "+"
        if result.episode == front.knee:
            marks += "k"
        if result.unmet:
            marks += "!"
    return f"{result.episode} {marks}".rstrip()


def _outcome(result: TrialResult, front: Front) -> str:
    if result.failure is not None:
        return result.failure.kind.value
    if result in front:
        return "on front"
    return "dominated" if result.episode in front.compared else "incomplete"
