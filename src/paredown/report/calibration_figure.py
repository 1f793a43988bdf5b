"""Predicted against measured: a panel per quantity, the line of perfect prediction in it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from paredown.report.style import INK

Point = tuple[float, float, float, float]
"""Measured, predicted, and the ends of the predicted interval."""
_POINT = "#3B6FB6"


def calibration_png(panels: Mapping[str, Sequence[Point]]) -> bytes:
    """The figure as a PNG file; both axes of a panel are logarithmic and alike.

    Args:
        panels: points by the title of their panel; at least one, numbers positive.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # registers itself; no pyplot, so no global state
    for number, (title, points) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), number)
        axes.set_title(title, loc="left", fontsize=11, color=INK)
        axes.set_xscale("log")
        axes.set_yscale("log")
        ends = [end for measured, said, *_ in points for end in (measured, said)]
        low, high = 0.9 * min(ends), 1.1 * max(ends)
        axes.plot([low, high], [low, high], color="#BBBBBB", linewidth=1)
        for measured, said, least, most in points:
            bar = [[max(said - least, 0.0)], [max(most - said, 0.0)]]
            axes.errorbar(
                measured, said, yerr=bar, fmt="o", markersize=4, color=_POINT, linewidth=1
            )
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("measured", color=INK)
    figure.supylabel("predicted  (bars: interval)", color=INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
