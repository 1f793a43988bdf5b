"""Models by size and KL, and beside them bits of a plan by block and kind of layer. No torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paredown.language import say
from paredown.report.plans import HeatMap, heat_map
from paredown.report.style import INK, PALETTE
from paredown.spec.plan import PlanRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST, MOST = 2, 8
"""Bits at the ends of the colours; what is left as it is counts as the most."""
_BLOCK_LABELS = 16
"""Numbers of blocks beside the rows, at most."""
_COLOURS = "viridis"
"""From dark to bright evenly, for the colour-blind as well."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A model in the picture.

    Attributes:
        nbytes: of its weights files.
        kl: from the base, nats per token, > 0.
        half: of its 95 % interval.
        text: what is said of it where a pointer rests.
    """

    nbytes: float
    kl: float
    half: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Series:
    """Models that belong together, smallest first; `is_curve` joins them by a line."""

    name: str
    marks: Sequence[Mark]
    is_curve: bool = True


def bits_png(title: str, series: Sequence[Series], plan: PlanRecord | None, name: str) -> bytes:
    """The figure as a PNG file.

    Args:
        title: above the models.
        plan: whose bits are drawn; None: there is none to draw.
        name: of the plan.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # registers itself; no pyplot, so no global state
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for number, found in enumerate(series):
        _errorbars(left, found, PALETTE[number % len(PALETTE)])
    left.set(xscale="log", yscale="log", xlabel="weights files, MB", ylabel="KL, nats per token")
    left.set_title(title.replace("$", r"\$"), loc="left", fontsize=11, color=INK)
    left.spines[["top", "right"]].set_visible(False)
    if any(found.marks for found in series):
        left.legend(frameon=False)
    if plan is None:
        right.set_axis_off()
    else:
        heat = heat_map(plan)
        image = right.imshow(_cells(heat), aspect="auto", cmap=_COLOURS, vmin=FEWEST, vmax=MOST)
        right.set_xticks(range(len(heat.kinds)), heat.kinds)
        apart = -(-len(heat.rows) // _BLOCK_LABELS)
        right.set_yticks(range(0, len(heat.rows), apart), list(heat.rows)[::apart])
        right.set_ylabel("block")
        right.set_title(f"bits of {name}".replace("$", r"\$"), loc="left", fontsize=11, color=INK)
        figure.colorbar(image, ax=right)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _errorbars(axes: Axes, series: Series, colour: str) -> None:
    axes.errorbar(
        [mark.nbytes / 1e6 for mark in series.marks],
        [mark.kl for mark in series.marks],
        yerr=[mark.half for mark in series.marks],
        fmt="o-" if series.is_curve else "s",
        markersize=4,
        capsize=2,
        color=colour,
        label=series.name,
    )


def _cells(heat: HeatMap) -> list[list[float]]:
    return [[row.get(kind, float("nan")) for kind in heat.kinds] for row in heat.rows.values()]


def bits_plot(series: Sequence[Series], plan: PlanRecord | None, name: str) -> Any:
    """The same as a plotly figure; arguments as of `bits_png`."""
    from plotly.graph_objects import Figure, Scatter
    from plotly.subplots import make_subplots

    figure: Figure = make_subplots(rows=1, cols=2, column_widths=[0.6, 0.4])
    for found in series:
        trace = Scatter(
            x=[mark.nbytes / 1e6 for mark in found.marks],
            y=[mark.kl for mark in found.marks],
            error_y={"array": [mark.half for mark in found.marks]},
            text=[mark.text for mark in found.marks],
            mode="lines+markers" if found.is_curve else "markers",
            name=found.name,
        )
        figure.add_trace(trace, row=1, col=1)
    if plan is not None:
        figure.add_trace(_heat_trace(heat_map(plan), name), row=1, col=2)
        figure.update_yaxes(title=say("block"), autorange="reversed", row=1, col=2)
        figure.update_xaxes(title=say("bits of {name}", name=name), row=1, col=2)
    figure.update_xaxes(title=say("weights files, MB"), type="log", row=1, col=1)
    figure.update_yaxes(title=say("KL, nats per token"), type="log", row=1, col=1)
    figure.update_layout(template="plotly_white", height=560, legend={"orientation": "h", "y": 1.1})
    return figure


def heat_plot(plan: PlanRecord, name: str) -> Any:
    """The bits of a plan by block and kind of layer, alone, as a plotly figure."""
    from plotly.graph_objects import Figure

    heat = heat_map(plan)
    figure = Figure(_heat_trace(heat, name))
    figure.update_yaxes(title=say("block"), autorange="reversed")
    figure.update_xaxes(type="category")
    height = max(320, min(14 * len(heat.rows) + 120, 760))
    figure.update_layout(template="plotly_white", height=height, margin={"t": 40, "b": 40})
    return figure


def _heat_trace(heat: HeatMap, name: str) -> Any:
    from plotly.graph_objects import Heatmap

    return Heatmap(
        z=_cells(heat), x=list(heat.kinds), y=[*heat.rows], colorscale=_COLOURS.capitalize(),
        zmin=FEWEST, zmax=MOST, colorbar={"title": say("bits")}, name=name,
        hovertemplate="block %{y}, %{x}: %{z:.3g} bits<extra></extra>",
    )  # fmt: skip
