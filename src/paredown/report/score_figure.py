"""benchmark_scores.png: scores against size, with error bars; one panel per benchmark."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from paredown.judge.words import one_line
from paredown.report.findings import Judged
from paredown.report.style import BASELINE, INK, MUTED, colours, method_of
from paredown.spec.result import TrialResult
from paredown.spec.scores import TaskScore
from paredown.spec.units import GB

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3
_MB = GB / 1e3


def scores_png(findings: Judged) -> bytes:
    """The figure as a PNG file: a point per result, its bar the 95 % interval of the score."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(s.name for r in findings.record.results for s in r.scores))
    columns = min(_COLUMNS, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(
        figsize=(max(4.6 * columns, 6.0), 3.6 * lines + 0.6), dpi=120, layout="constrained"
    )
    FigureCanvasAgg(figure)  # registers itself; no pyplot, so no global state
    for k, name in enumerate(names):
        _panel(figure.add_subplot(lines, columns, k + 1), findings, name)
    figure.supxlabel("size of the weights files, MB", color=INK)
    figure.supylabel("score, %  (bars: 95 % interval)", color=INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _panel(axes: Axes, findings: Judged, name: str) -> None:
    axes.set_title(one_line(name, 40).replace("$", r"\$"), loc="left", fontsize=11, color=INK)
    axes.grid(visible=True, color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    colour = colours(findings.record.results)
    chance = None
    for result, score in _scored(findings, name):
        chance = score.chance
        base = method_of(result) == BASELINE
        hue = INK if base else colour[method_of(result)]
        size, value = (result.value("size") or 0.0) / _MB, 100 * score.value
        bar = [[value - 100 * score.low], [100 * score.high - value]]
        axes.errorbar(
            size,
            value,
            yerr=bar,
            color=hue,
            marker="*" if base else "o",
            markersize=12 if base else 7,
            capsize=3,
            markerfacecolor=hue if score.stopped is None else "white",
        )
        axes.annotate(
            "base" if base else str(result.episode),
            (size, value),
            xytext=(6, 5),
            textcoords="offset points",
            fontsize=9,
            color=INK,
        )
    if chance:
        axes.axhline(100 * chance, color=MUTED, linestyle=":", linewidth=1)
        axes.annotate(
            "chance", (0.01, 100 * chance), xycoords=("axes fraction", "data"), color=MUTED,
            fontsize=8, va="bottom",
        )  # fmt: skip
    axes.margins(x=0.15)


def _scored(findings: Judged, name: str) -> list[tuple[TrialResult, TaskScore]]:
    return [
        (result, score)
        for result in findings.record.results
        for score in result.scores
        if score.name == name
    ]
