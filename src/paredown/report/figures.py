"""search_space_analysis.png: how small against how good, one point per measured strategy."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paredown.judge.quantities import KEPT, SCORED, loss, quantity, ratio
from paredown.judge.words import half_width, one_line
from paredown.report.findings import Judged
from paredown.report.style import (
    BASELINE,
    COMBINED,
    INK,
    MUTED,
    SINGLE,
    Paint,
    colours,
    hue_of,
    is_pipeline,
    method_of,
)
from paredown.spec.result import TrialResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

LINEAR_UP_TO = 10.0
"""Percent of loss up to which the axis is linear; beyond, it is logarithmic."""

LABEL_LENGTH = 42
NAMED = 12
"""Results of the front whose strategies are written out."""
FORMS = ("png", "svg", "pdf")
"""Files that a figure can become."""
EDGE = "least loss at each ratio"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A result as the figure shows it."""

    result: TrialResult
    ratio: float
    loss: float
    loss_half: float
    on_front: bool


def points(findings: Judged) -> list[Point]:
    """Every finished result whose ratio and loss are known, the baseline included."""
    baseline = findings.baseline
    found = []
    for result in findings.record.results:
        is_baseline = baseline is not None and result.episode == 0
        shrink = 1.0 if is_baseline else ratio(result, baseline)
        lost = loss(result, baseline)
        if result.status == "ok" and shrink is not None and lost is not None:
            found.append(
                Point(
                    result=result,
                    ratio=shrink,
                    loss=lost,
                    loss_half=0.0 if is_baseline else loss_half(result, baseline),
                    on_front=result in findings.front,
                )
            )
    return found


def loss_half(result: TrialResult, baseline: TrialResult | None) -> float:
    """Half of the loss's 95 % interval, percent; of the paired comparison where there is one."""
    scored = quantity("quality", baseline) is SCORED
    paired = result.get(KEPT if scored else "perplexity_ratio")
    if paired is not None and paired.stderr is not None:
        return 100 * half_width(paired)
    mine = result.get("perplexity")
    base = None if baseline is None else baseline.value("perplexity")
    return 100 * half_width(mine) / base if mine and base else 0.0


def search_space_figure(findings: Judged, paint: Paint = "method") -> Figure:
    """The figure, for matplotlib to show or to save.

    Args:
        paint: what colours tell apart: each `method`, or the `kind` alone, single methods in blue
            and combinations in red.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # registers itself; no pyplot, so no global state
    axes = figure.add_subplot()
    shown = points(findings)
    _dress(axes, findings, shown)
    if shown:
        colour = colours(findings.record.results, paint)
        _scale(axes, shown)
        _front_line(axes, shown)
        _scatter(axes, colour, shown)
        _name_points(axes, findings, shown)
        _legends(axes, colour, shown, paint)
    else:
        axes.text(
            0.5,
            0.5,
            "nothing measured yet",
            transform=axes.transAxes,
            ha="center",
            color=MUTED,
            fontsize=13,
        )
    return figure


def search_space_png(findings: Judged) -> bytes:
    """The figure as a PNG file."""
    return drawn(search_space_figure(findings))


def drawn(figure: Figure, form: str = "png", dpi: float | None = None) -> bytes:
    """A figure as a file: `png`, `svg` or `pdf`.

    Args:
        dpi: dots per inch of a PNG; None: those of the figure.
    """
    from matplotlib import rc_context
    from matplotlib.legend import Legend

    buffer = io.BytesIO()
    # Text in a vector file stays text, and no file tells when it was made: equal ones are equal.
    with warnings.catch_warnings(), rc_context({"svg.fonttype": "none", "svg.hashsalt": "paredown",
                                                "pdf.fonttype": 42}):  # fmt: skip
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box
        figure.savefig(
            buffer,
            format=form,
            dpi="figure" if dpi is None else dpi,
            bbox_inches="tight",
            bbox_extra_artists=figure.findobj(Legend),  # the layout sees only one of two legends
            metadata={"png": {"Software": None}, "svg": {"Date": None}}.get(
                form, {"CreationDate": None}
            ),
        )
    return buffer.getvalue()


def _dress(axes: Axes, findings: Judged, shown: Sequence[Point]) -> None:
    failed = sum(r.status == "failed" for r in findings.record.results)
    other = len(findings.record.results) - failed - len(shown)
    counts = f"{len(shown)} measured, {failed} failed"
    counts += f", {other} without size or quality" if other else ""
    model = one_line(findings.record.config.model, 60)
    axes.set_title(
        _literal(f"Search space of {model}  ({counts})"), loc="left", fontsize=12, color=INK
    )
    axes.set_xlabel("compression ratio (files of the base / files of the artifact)", color=INK)
    scored = quantity("quality", findings.baseline) is SCORED
    what = "share of the base's score that is lost" if scored else "rise of perplexity"
    axes.set_ylabel(f"quality loss: {what}, %  (bars: 95 % intervals)", color=INK)
    axes.grid(visible=True, which="major", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _scale(axes: Axes, shown: Sequence[Point]) -> None:
    """Logarithmic where values span much; linear near zero, where losses may be negative."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    worst = max(p.loss + p.loss_half for p in shown)
    best = min(p.loss - p.loss_half for p in shown)
    if worst > 5 * LINEAR_UP_TO:
        axes.set_yscale("symlog", linthresh=LINEAR_UP_TO, linscale=1.0)
        steps: list[float] = [-50, -10, -5, 0, 5, 10, 20, 50, 100, 200, 500]
        steps += [10.0**k for k in range(3, 12)]
        axes.set_yticks([s for s in steps if min(best, -1) * 1.3 <= s <= worst * 1.6])
        axes.minorticks_off()
        axes.set_ylim(min(best * 1.15, -1.5), worst * 1.9)
    else:
        room = max(worst - best, 5.0) * 0.12
        axes.set_ylim(best - room, worst + room)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = min(p.ratio for p in shown), max(p.ratio for p in shown)
    room = max(high - low, 0.5) * 0.08
    axes.set_xlim(low - room, high + room)
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))


def _front_line(axes: Axes, shown: Sequence[Point]) -> None:
    """Steps through the points that no other beats in the two axes of this figure."""
    edge: list[Point] = []
    for point in sorted(shown, key=lambda p: (-p.ratio, p.loss)):
        if not edge or point.loss < edge[-1].loss:
            edge.append(point)
    axes.plot(
        [p.ratio for p in edge],
        [p.loss for p in edge],
        color=INK,
        linewidth=1.2,
        linestyle="--",
        drawstyle="steps-post",
        zorder=1,
        label=EDGE,
    )


def _scatter(axes: Axes, colour: Mapping[str, str], shown: Sequence[Point]) -> None:
    for point in shown:
        method = method_of(point.result)
        if method == BASELINE:
            axes.scatter(point.ratio, point.loss, marker="*", s=260, color=INK, zorder=4)
            continue
        hue = hue_of(point.result, colour)
        axes.errorbar(
            point.ratio,
            point.loss,
            yerr=point.loss_half,
            ecolor=hue,
            elinewidth=1.2,
            capsize=3,
            fmt="none",
            zorder=2,
        )
        axes.scatter(
            point.ratio,
            point.loss,
            s=75,
            marker=_marker(point.result),
            facecolor=hue if point.on_front else "white",
            edgecolor=hue,
            linewidth=1.6,
            zorder=3,
        )


def _legends(axes: Axes, colour: Mapping[str, str], shown: Sequence[Point], paint: Paint) -> None:
    """Right of the plot: what marks mean, then the strategies on the front by episode."""
    present = {method_of(p.result) for p in shown}
    marks = [_mark("uncompressed baseline", "*", INK)] if BASELINE in present else []
    if paint == "method":
        marks += [_mark(m, "D", colour[m]) for m in sorted(present - {BASELINE})]
    kinds = {is_pipeline(p.result) for p in shown if p.result.episode > 0}
    single, several = (colour.get(kind, MUTED) for kind in (SINGLE, COMBINED))
    marks += [_mark("single method", "o", single)] if False in kinds else []
    told = "pipeline (colour: last step)" if paint == "method" else "pipeline"
    marks += [_mark(told, "s", several)] if True in kinds else []
    if not all(p.on_front for p in shown):
        marks += [_mark("not on the front", "o", MUTED, filled=False)]
    marks += [line for line in axes.get_lines() if line.get_label() == EDGE]
    entries = [
        _mark(
            f"{p.result.episode}  {one_line(p.result.label, LABEL_LENGTH)}",
            _marker(p.result),
            hue_of(p.result, colour),
        )
        for p in sorted(shown, key=lambda p: p.ratio)
        if p.on_front and p.result.episode > 0
    ]
    right = {"fontsize": 9, "frameon": False, "alignment": "left", "borderaxespad": 0.0}
    meaning = axes.legend(handles=marks, loc="upper left", bbox_to_anchor=(1.02, 1.0), **right)
    if entries:
        axes.legend(
            handles=entries[-NAMED:],
            title="on the front",
            loc="lower left",
            bbox_to_anchor=(1.02, 0.0),
            **right,
        )
        axes.add_artist(meaning)


def _mark(label: str, marker: str, colour: str, *, filled: bool = True) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        linestyle="none",
        marker=marker,
        color=colour,
        label=_literal(label),
        markersize=13 if marker == "*" else 8,
        markerfacecolor=colour if filled else "white",
    )


def _marker(result: TrialResult) -> str:
    return "s" if is_pipeline(result) else "o"


def _name_points(axes: Axes, findings: Judged, shown: Sequence[Point]) -> None:
    """Episode numbers at every point, and what is recommended."""
    middle = sum(axes.get_xlim()) / 2
    for point in shown:
        episode = point.result.episode
        if episode == 0:
            continue
        role = "recommended" if episode == findings.recommendation.episode else ""
        text = f"{episode} {role}".rstrip()
        to_left = point.ratio > middle
        axes.annotate(
            text,
            (point.ratio, point.loss),
            xytext=(-7 if to_left else 7, 6),
            textcoords="offset points",
            horizontalalignment="right" if to_left else "left",
            fontsize=9,
            color=INK,
            fontweight="bold" if role else "normal",
            zorder=5,
        )


def _literal(text: str) -> str:
    """`$` would start a formula."""
    return text.replace("$", r"\$")
