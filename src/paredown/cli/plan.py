"""`paredown plan`: what a plan gives to each layer, and how two plans differ. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paredown.cli.help import plain_app

if TYPE_CHECKING:
    from rich.text import Text

    from paredown.report.plans import HeatMap, KindRow

plan = plain_app(
    name="plan",
    help="Show what a plan gives to each layer, or how two plans differ.",
    add_completion=False,
)

_COLOURS = {2: 196, 3: 208, 4: 226, 5: 148, 6: 40, 8: 33, 16: 250}
"""Of the terminal's 256 by bits: few are hot."""
_Plan = Annotated[Path, typer.Argument(metavar="PLAN", help="Plan file, or an artifact's folder.")]
_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@plan.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@plan.command()
def show(where: _Plan, as_json: _Json = False) -> None:
    """Show bits by layer and kind, as a table and as a heat map."""
    from paredown.report.console import make_console
    from paredown.report.plans import by_kind, heat_map, summary, why_high
    from paredown.spec.plan import PlanRecord

    record = PlanRecord.read(where)
    if as_json:
        print(json.dumps(record.model_dump(mode="json") | {"bpw": record.bpw}, indent=2))
        return
    console = make_console()
    console.print(summary(record), soft_wrap=True)
    for line in _table([_kind_cells(row) for row in by_kind(record)]):
        console.print(line, soft_wrap=True)
    for row in _heat(heat_map(record), colours=console.is_terminal):
        console.print(row, soft_wrap=True)
    for line in why_high(record):
        console.print(line, soft_wrap=True)


@plan.command()
def diff(first: _Plan, second: _Plan, as_json: _Json = False) -> None:
    """Show which layers two plans treat differently. Exit code 1 if any, as `diff` does."""
    from paredown.report.console import make_console
    from paredown.report.plans import differences, summary
    from paredown.spec.plan import PlanRecord

    one, two = PlanRecord.read(first), PlanRecord.read(second)
    found = differences(one, two)
    if as_json:
        rows = [{"layer": d.layer, "first": d.first, "second": d.second} for d in found]
        print(json.dumps({"differences": rows, "bytes": [one.nbytes, two.nbytes]}, indent=2))
    else:
        console = make_console()
        console.print(f"- {first}: {summary(one)}", soft_wrap=True)
        console.print(f"+ {second}: {summary(two)}", soft_wrap=True)
        cells = [(d.layer, d.first or "not named", d.second or "not named") for d in found]
        for line in _table([("layer", "first", "second"), *cells] if cells else []):
            console.print(line, soft_wrap=True)
        if not found:
            console.print("no layer differs")
    if found:
        raise typer.Exit(1)


def _kind_cells(row: KindRow) -> tuple[str, ...]:
    widths = ", ".join(f"{count} in {bits}" for bits, count in row.bits.items())
    kl = "" if row.kl is None else f"forecast KL {row.kl:.3g}"
    return row.kind, f"{row.layers} layers", f"{widths} bits", kl


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines with their columns aligned."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _heat(found: HeatMap, *, colours: bool) -> list[Text]:
    """A line for each block, a cell for each kind; the colour says it, and the number."""
    from rich.text import Text

    width = max([4, *map(len, found.kinds)]) + 1
    lines = [Text("block " + "".join(kind.rjust(width) for kind in found.kinds))]
    for index, row in found.rows.items():
        line = Text(f"{index:5d} ")
        for kind in found.kinds:
            bits = row.get(kind)
            cell = "" if bits is None else f"{bits:.2g}"
            line.append(cell.rjust(width), style=_style(bits) if colours else "")
        lines.append(line)
    return lines if found.rows else []


def _style(bits: float | None) -> str:
    if bits is None:
        return ""
    near = min(_COLOURS, key=lambda width: abs(width - bits))
    return f"black on color({_COLOURS[near]})"
