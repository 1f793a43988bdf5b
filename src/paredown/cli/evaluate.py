"""`paredown evaluate`: measure a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paredown.cli.options import with_settings
from paredown.spec.requests import EvaluateRequest
from paredown.spec.run import MEASURING

if TYPE_CHECKING:
    from rich.console import Console

    from paredown.spec.result import TrialResult

ENV_PREFIX = "PAREDOWN_EVALUATE_"


@with_settings(EvaluateRequest, env_prefix=ENV_PREFIX, argument="model", panel=MEASURING)
def evaluate(
    request: EvaluateRequest,
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder for results.json and items."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Measure a model: benchmarks, perplexity, KL to its base, latency, memory, size.

    Each number comes with its error; scores are compared with the base's on the same items. An
    evaluation that was killed goes on where it stood when it is started again.

    Settings come from options, then from environment variables (PAREDOWN_EVALUATE_TOKENS=4096),
    then from --config, then from the defaults; `none` stands for no value.
    """
    from paredown import api
    from paredown.pipeline.messages import ITEMS
    from paredown.report.console import make_console
    from paredown.report.live import StepProgress
    from paredown.spec.notation import shared
    from paredown.spec.run import EvaluateConfig
    from paredown.spec.serial import readable
    from paredown.store.atomic import write_json

    console = make_console(stderr=as_json)
    with StepProgress(console) as progress:
        result = api.evaluate(
            request.model,
            base=request.base,
            data=request.data,
            config=EvaluateConfig(**shared(request, EvaluateConfig)),
            data_dir=request.data_dir,
            device=request.device,
            runtime=request.runtime,
            items=None if output is None else output / ITEMS,
            only_benchmarks=request.only_benchmarks,
            trust_remote_code=request.trust_remote_code,
            watch=progress.watch,
        )
    if output is not None:
        write_json(output / "results.json", result)
    if as_json:
        print(readable(result), end="")
        return
    _print_tables(console, result)
    _print_words(console, result)
    if output is not None:
        console.print(f"  {output / 'results.json'} says how each was measured", soft_wrap=True)


def _print_tables(console: Console, result: TrialResult) -> None:
    from paredown.report.tables import (
        NUMBER_COLUMNS,
        SCORE_COLUMNS,
        SPEED_COLUMNS,
        number_rows,
        score_rows,
        speed_rows,
    )
    from paredown.report.terminal import TextTable

    console.print(TextTable(columns=NUMBER_COLUMNS, rows=number_rows(result), title=result.label))
    if result.speed:
        console.print()
        title = "Speed: median (± half of a 95 % interval), 90 % quantile, throughput"
        console.print(TextTable(columns=SPEED_COLUMNS, rows=speed_rows(result), title=title))
        console.print("* time was up before the intervals were within 5 %")
    if result.scores:
        console.print()
        rows = [row[2:] for row in score_rows([result])]  # without number and strategy
        console.print(TextTable(columns=SCORE_COLUMNS[2:], rows=rows, title="Benchmarks"))


def _print_words(console: Console, result: TrialResult) -> None:
    from paredown.report.tables import score_notes

    console.print()
    if result.verdict is not None:
        console.print(result.verdict, style="bold")
    for note in (*result.remarks, *score_notes(result)):
        console.print(f"  - {note}")
