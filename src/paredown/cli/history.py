"""`paredown predict --history`: how right predictions were, over experiments that have run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paredown.coordinate.history import Pair, Summary

_TITLES = {
    "size": "size, bytes", "peak_memory": "peak memory, bytes",
    "decode_latency": "decode, ms/token", "speedup": "speed-up",
    "perplexity_ratio": "perplexity/base",
}  # fmt: skip


def show_history(folder: Path, *, plot: Path | None, as_json: bool) -> None:
    """Print the table, or JSON with every pair; and write the plot.

    Raises:
        ExperimentError: there is no experiment in the folder.
    """
    from paredown.coordinate.history import read_history, summaries
    from paredown.hardware.detect import detect

    pairs, left = read_history(folder, detect())
    found = summaries(pairs)
    if plot is not None and pairs:
        _draw(plot, pairs, found)
    if as_json:
        _print_json(pairs, found, left)
    else:
        _print_table(pairs, found, left)


def _draw(plot: Path, pairs: list[Pair], found: list[Summary]) -> None:
    from paredown.report.calibration_figure import calibration_png
    from paredown.store.atomic import write_bytes

    panels = {
        _TITLES[s.name]: [
            (p.measured, p.predicted, p.low, p.high) for p in pairs if p.name == s.name
        ]
        for s in found
    }
    write_bytes(plot, calibration_png(panels))


def _print_json(pairs: list[Pair], found: list[Summary], left: dict[str, str]) -> None:
    from paredown.spec.serial import SCHEMA_VERSION, readable

    document = {
        "schema_version": SCHEMA_VERSION,
        "summaries": [asdict(s) for s in found],
        "pairs": [{**asdict(p), "covered": p.covered} for p in pairs],
        "left_out": left,
    }
    print(readable(document), end="")


def _print_table(pairs: list[Pair], found: list[Summary], left: dict[str, str]) -> None:
    from rich.table import Table

    from paredown.report.console import make_console

    console = make_console()
    table = Table(
        title=f"Predicted against measured, {len({p.experiment for p in pairs})} experiment(s)",
        title_justify="left", box=None, pad_edge=False,
    )  # fmt: skip
    for column in (
        "quantity",
        "n",
        "predicted/measured, median",
        "worst factor",
        "in its interval",
    ):
        table.add_column(column, justify="left" if column == "quantity" else "right")
    for s in found:
        table.add_row(
            _TITLES[s.name], str(s.n), f"{s.median_ratio:.3f}", f"{s.worst_factor:.2f}",
            f"{s.covered:.0%}",
        )  # fmt: skip
    console.print(table)
    for name, why in left.items():
        console.print(f"left out: {name}: {why}")
    if not pairs:
        console.print("no finished trial of them can be predicted by this version")
