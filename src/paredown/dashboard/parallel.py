"""The best trials in all quantities at once, a line each, as a plotly figure.

Drawn as lines and not as plotly's own parallel coordinates: those need a graphics card, and take
ten seconds on a machine without one; and a line here tells its episode, and leads to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from paredown.dashboard.axes import Axis
from paredown.dashboard.summary import Row, Summary
from paredown.judge.words import number, one_line
from paredown.report.style import INK, MUTED

_LABEL = 90


def best_rows(summary: Summary, axes: Sequence[Axis], by: Axis, count: int) -> list[Row]:
    """The best trials in one quantity that have all of them; front first where they are equal."""
    known = [r for r in summary.trials if all(a.value(r) is not None for a in axes)]
    sign = 1.0 if by.lower_is_better else -1.0

    def place(row: Row) -> tuple[float, bool, int]:
        value = by.value(row)
        off_front = row.episode not in summary.measurements
        return (0.0 if value is None else sign * value), off_front, row.episode

    return sorted(known, key=place)[:count]


def parallel_plot(rows: Sequence[Row], axes: Sequence[Axis], by: Axis) -> Any:
    """A line per trial through all quantities; the better in `by`, the darker.

    Every axis has its better end at the top, with the best and the worst value of these trials; one
    on which all are equal is left out. Each line carries its episode as `customdata`.
    """
    from plotly.colors import sample_colorscale
    from plotly.graph_objects import Figure, Scatter

    columns = {axis: [axis.value(row) or 0.0 for row in rows] for axis in axes}
    shown = {axis: values for axis, values in columns.items() if min(values) < max(values)}
    heights = {axis: _heights(axis, values) for axis, values in shown.items()}
    darkness = [1.0 - height for height in _heights(by, columns[by])]
    figure = Figure()
    # The worst first, so that the best lie above.
    for i in sorted(range(len(rows)), key=lambda i: -darkness[i]):
        said = [f"{axis.name} {number(values[i])}" for axis, values in shown.items()]
        label = escape(one_line(rows[i].label, _LABEL), quote=False)
        figure.add_trace(
            Scatter(
                x=list(range(len(shown))), y=[heights[axis][i] for axis in shown],
                mode="lines+markers", marker={"size": 6}, showlegend=False,
                line={"width": 1.5, "color": sample_colorscale("Viridis", [0.85 * darkness[i]])[0]},
                customdata=[rows[i].episode] * len(shown),
                hovertemplate=f"<b>episode {rows[i].episode}</b><br>{label}<br>"
                f"{'<br>'.join(said)}<extra></extra>",
            )
        )  # fmt: skip
    for place, (axis, values) in enumerate(shown.items()):
        best, worst = min(values), max(values)
        if not axis.lower_is_better:
            best, worst = worst, best
        figure.add_shape(
            type="line", x0=place, x1=place, y0=0, y1=1, line={"color": MUTED, "width": 1},
            layer="below",
        )  # fmt: skip
        for height, value, anchor in ((1.0, best, "bottom"), (0.0, worst, "top")):
            figure.add_annotation(
                x=place, y=height, text=number(value), showarrow=False, yanchor=anchor, yshift=4
                if height else -4, font={"size": 11, "color": MUTED},
            )  # fmt: skip
    figure.update_xaxes(
        tickvals=list(range(len(shown))), ticktext=[axis.name for axis in shown], side="top",
        showgrid=False, zeroline=False, tickfont={"color": INK, "size": 13}, fixedrange=True,
        range=[-0.3, len(shown) - 0.7],
    )  # fmt: skip
    figure.update_yaxes(visible=False, range=[-0.12, 1.12], fixedrange=True)
    figure.update_layout(
        template="plotly_white", height=380, hovermode="closest", clickmode="event+select",
        hoverlabel={"align": "left"}, margin={"l": 20, "r": 20, "t": 50, "b": 10},
    )  # fmt: skip
    return figure


def _heights(axis: Axis, values: Sequence[float]) -> list[float]:
    """From 0, the worst of these, to 1, the best."""
    low, high = min(values), max(values)
    if low == high:
        return [1.0] * len(values)
    risen = [(value - low) / (high - low) for value in values]
    return [1.0 - height for height in risen] if axis.lower_is_better else risen
