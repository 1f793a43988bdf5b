"""Tokens per second of each user against those of all together, one curve for each server."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from paredown.deploy.loadstats import Level, knee_of
from paredown.store.atomic import write_bytes

_COLOURS = ("#0072b2", "#d55e00")
"""Told apart by those who do not see red and green (Okabe and Ito)."""


def draw(levels: Sequence[Level], file: Path) -> None:
    """Write a PNG; the knee of each curve is ringed, and levels stand beside their points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for colour, target in zip(_COLOURS, dict.fromkeys(x.target for x in levels), strict=False):
        mine = sorted((x for x in levels if x.target == target), key=lambda x: x.level)
        across = [x.output_tokens_per_s for x in mine]
        up = [x.tokens_per_s_per_user for x in mine]
        axes.plot(across, up, "o-", color=colour, label=target)
        for level, x, y in zip(mine, across, up, strict=True):
            axes.annotate(f"{level.level:g}", (x, y), xytext=(5, 5), textcoords="offset points")
        if (knee := knee_of(mine)) is not None:
            at = [knee.output_tokens_per_s], [knee.tokens_per_s_per_user]
            axes.plot(*at, "o", markersize=14, markerfacecolor="none", color=colour)
    axes.set_xlabel("tokens per second, all together")
    axes.set_ylabel("tokens per second of each")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(file, buffer.getvalue())
