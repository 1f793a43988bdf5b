"""The front in any two quantities, as a plotly figure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from paredown.dashboard.axes import Axis, LimitLine
from paredown.dashboard.summary import Row, Summary
from paredown.judge.words import one_line
from paredown.report.style import BASELINE, INK, colours_of

_LOG_FROM = 20.0
"""Largest over smallest value from which an axis is logarithmic."""
_LABEL = 90
MANY = 500
"""Points of a kind from which on they are drawn as many."""
LIMIT = "#B00020"


def front_plot(
    summary: Summary, x: Axis, y: Axis, limits: tuple[Sequence[LimitLine], Sequence[LimitLine]]
) -> Any:
    """Every episode that has both quantities.

    Filled points are on the front, with their 95 % intervals; diamonds have bits chosen layer by
    layer, circles the same ones everywhere. Each point carries its episode as `customdata`.

    Args:
        limits: of the user, on x and on y.
    """
    from plotly.graph_objects import Figure

    shown = [r for r in summary.rows if x.value(r) is not None and y.value(r) is not None]
    on_front = [r for r in shown if r.episode in summary.measurements]
    many = len(shown) > MANY
    figure = Figure(_line(on_front, x, y, many=many))
    colours = colours_of(row.method for row in summary.rows)
    for (method, symbol), mine in _groups(summary, shown).items():
        figure.add_trace(_points(summary, mine, x, y, (colours[method], symbol), many=many))
    last = {trace.legendgroup: i for i, trace in enumerate(figure.data)}
    for i, trace in enumerate(figure.data):  # the points of the front stand for their method
        trace.showlegend = i == last[trace.legendgroup]
    figure.add_traces(_ring([r for r in shown if r.episode == summary.recommended], x, y, many))
    _draw_limits(figure, *limits)
    figure.update_xaxes(title_text=x.title, type=_scale(shown, x))
    figure.update_yaxes(title_text=y.title, type=_scale(shown, y))
    figure.update_layout(
        template="plotly_white", height=520, hovermode="closest", clickmode="event+select",
        hoverlabel={"align": "left"}, legend={"orientation": "h", "y": -0.2},
        margin={"l": 60, "r": 20, "t": 24, "b": 40},
        # Zoom and selection of the user outlive a refresh.
        uirevision=f"{summary.folder}/{x.name}/{y.name}",
    )  # fmt: skip
    return figure


def _groups(summary: Summary, rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Points that look alike, by method and symbol: those of the front last, and the base."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.episode in summary.measurements, row.method)):
        found.setdefault((row.method, _symbol(row, summary)), []).append(row)
    base = [key for key in found if key[0] == BASELINE]
    return {key: mine for key, mine in found.items() if key not in base} | {
        key: found[key] for key in base
    }


def _kind(*, many: bool) -> Any:
    """The drawing of a plot's points: many go to the graphics card. One of both for the whole plot,
    because what is drawn there lies above everything else."""
    from plotly.graph_objects import Scatter, Scattergl

    return Scattergl if many else Scatter


def _line(on_front: Sequence[Row], x: Axis, y: Axis, *, many: bool) -> Any:
    """Through the front, left to right; in two axes alone it may zigzag."""
    ordered = sorted(on_front, key=lambda row: (x.value(row) or 0.0, row.episode))
    return _kind(many=many)(
        x=[x.value(r) for r in ordered],
        y=[y.value(r) for r in ordered],
        mode="lines",
        line={"color": INK, "width": 1, "dash": "dot"},
        hoverinfo="skip",
        name="front (over all objectives)",
        legendgroup="front",
    )


def _points(
    summary: Summary, rows: Sequence[Row], x: Axis, y: Axis, look: tuple[str, str], *, many: bool
) -> Any:
    """A trace of points that look alike.

    Args:
        look: colour and symbol.
        many: those off the front are faint, and say their episode alone.
    """
    colour, symbol = look
    on_front = rows[0].episode in summary.measurements
    measured = [summary.measurements.get(row.episode, ()) for row in rows] if on_front else []
    faint = many and not on_front and rows[0].episode > 0
    said = "<b>episode %{customdata}</b>" if faint else "%{text}"
    size = 16 if rows[0].episode == 0 else 11 if on_front else 5 if faint else 7
    # Arrays: of a list plotly looks at every element.
    return _kind(many=many)(
        x=np.array([x.value(r) for r in rows]),
        y=np.array([y.value(r) for r in rows]),
        error_x=_bars([x.half(m) for m in measured], colour),
        error_y=_bars([y.half(m) for m in measured], colour),
        mode="markers",
        name=escape(rows[0].method, quote=False),
        legendgroup=rows[0].method,
        customdata=np.array([r.episode for r in rows]),
        text=None if faint else [_hover(r, summary) for r in rows],
        hovertemplate=f"{said}<br>{x.name} %{{x:.5g}}, {y.name} %{{y:.5g}}<extra></extra>",
        marker={
            "color": colour, "symbol": symbol, "size": size, "opacity": 0.4 if faint else 1,
            "line": {"width": 1 if on_front else 1.5, "color": "white" if on_front else colour},
        },
    )  # fmt: skip


def _ring(rows: Sequence[Row], x: Axis, y: Axis, many: bool) -> list[Any]:
    """Around what is recommended, above all else."""
    return [
        _kind(many=many)(
            x=[x.value(row)], y=[y.value(row)], mode="markers", name="recommended",
            hoverinfo="skip", legendgroup="recommended",
            marker={"symbol": "circle-open", "size": 20, "color": INK, "line": {"width": 2.5}},
        )
        for row in rows
    ]  # fmt: skip


def _bars(halves: Sequence[float], colour: str) -> dict[str, Any]:
    return {
        "type": "data", "array": list(halves), "thickness": 1, "width": 0, "visible": any(halves),
        "color": f"rgba({int(colour[1:3], 16)},{int(colour[3:5], 16)},{int(colour[5:], 16)},0.35)",
    }  # fmt: skip


def _hover(row: Row, summary: Summary) -> str:
    roles = {summary.recommended: "recommended", summary.runner_up: "runner-up"}
    role = roles.get(row.episode) or ("knee" if row.episode == summary.knee else row.outcome)
    # plotly knows &lt; &gt; &amp;, but neither &quot; nor &#x27;
    label = escape(one_line(row.label, _LABEL), quote=False)
    why = f"<br>{escape(one_line(row.why, _LABEL), quote=False)}" if row.why else ""
    return f"<b>episode {row.episode}</b> ({role})<br>{label}{why}"


def _symbol(row: Row, summary: Summary) -> str:
    if row.episode == 0:
        return "star"
    shape = "diamond" if row.is_mixed else "square" if row.kind == "pipeline" else "circle"
    return shape if row.episode in summary.measurements else f"{shape}-open"


def _draw_limits(figure: Any, on_x: Sequence[LimitLine], on_y: Sequence[LimitLine]) -> None:
    style = {"line": {"color": LIMIT, "width": 1.5, "dash": "dash"}}
    for line in on_x:
        figure.add_vline(
            x=line.value, **style, annotation_text=escape(line.text, quote=False),
            annotation_position="top left" if line.is_upper else "top right",
            annotation_font_color=LIMIT, annotation_textangle=-90,
        )  # fmt: skip
    for line in on_y:
        figure.add_hline(
            y=line.value, **style, annotation_text=escape(line.text, quote=False),
            annotation_position="top right", annotation_font_color=LIMIT,
        )  # fmt: skip


def _scale(rows: Sequence[Row], axis: Axis) -> str:
    values = [v for row in rows if (v := axis.value(row)) is not None]
    wide = values and min(values) > 0 and max(values) / min(values) >= _LOG_FROM
    return "log" if wide else "linear"
