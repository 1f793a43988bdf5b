"""`paredown evaluate`: measure a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="Artifact, model folder, hub name, or 'demo'.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            help="What to measure on, repeatable: benchmarks (gsm8k, arc_easy, mmlu, ...; "
            "lm-eval:NAME; a .jsonl file of questions) and one text (pydoc, self, wikitext2, or "
            "a file or folder).",
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Model to compare with; default: the artifact's own base.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for results.json and items.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of held-out text.")] = 8192,
    limit: Annotated[
        int, typer.Option(help="Items per benchmark, the same for every model; 0: all.")
    ] = 100,
    margin: Annotated[
        float, typer.Option(help="Difference of a score that does not matter to you.")
    ] = 0.02,
    grid: Annotated[
        str,
        typer.Option(help="Prompt lengths and batch sizes at which speed is measured; or off."),
    ] = "32,128,512x1,4",
    only_benchmarks: Annotated[
        bool,
        typer.Option("--only-benchmarks", help="Leave out perplexity, KL, latency and memory."),
    ] = False,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Ask benchmarks in the chat template.")
    ] = False,
    allow_unsandboxed_code: Annotated[
        bool,
        typer.Option(
            "--allow-unsandboxed-code", help="Run model-written code where no sandbox works."
        ),
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with offline data sets (also: PAREDOWN_DATA).")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Measure a model: benchmarks, perplexity, KL to its base, latency, memory, size.

    Each number comes with its error; scores are compared with the base's on the same items. An
    evaluation that was killed goes on where it stood when it is started again.
    """
    from rich.console import Console
    from rich.text import Text

    from paredown import api
    from paredown.cli.live import StepProgress
    from paredown.cli.settings import evaluate_config
    from paredown.pipeline.messages import ITEMS
    from paredown.report.tables import (
        NUMBER_COLUMNS,
        SCORE_COLUMNS,
        SPEED_COLUMNS,
        number_rows,
        score_notes,
        score_rows,
        speed_rows,
    )
    from paredown.report.terminal import TextTable
    from paredown.spec.serial import readable
    from paredown.spec.speed import SpeedGrid
    from paredown.store.atomic import write_json

    console = Console(stderr=as_json, highlight=False)
    with StepProgress(console) as progress:
        result = api.evaluate(
            model,
            base=base,
            data=data or ["pydoc"],
            config=evaluate_config(
                tokens=tokens,
                limit=limit,
                margin=margin,
                grid=SpeedGrid.parse(grid),
                chat_template=chat_template,
                allow_unsandboxed_code=allow_unsandboxed_code,
            ),
            data_dir=data_dir,
            device=device,
            items=None if output is None else output / ITEMS,
            only_benchmarks=only_benchmarks,
            watch=progress.watch,
        )
    if output is not None:
        write_json(output / "results.json", result)
    if as_json:
        print(readable(result), end="")
        return
    console.print(TextTable(columns=NUMBER_COLUMNS, rows=number_rows(result), title=result.label))
    if result.speed:
        console.print()
        title = "Speed: median ± half of its 95 % interval, 90 % quantile, throughput"
        console.print(TextTable(columns=SPEED_COLUMNS, rows=speed_rows(result), title=title))
        console.print("* time was up before the intervals were within 5 %")
    if result.scores:
        console.print()
        rows = [row[2:] for row in score_rows([result])]  # without number and strategy
        console.print(TextTable(columns=SCORE_COLUMNS[2:], rows=rows, title="Benchmarks"))
    console.print()
    if result.verdict is not None:
        console.print(Text(result.verdict, style="bold"))
    for note in (*result.remarks, *score_notes(result)):
        console.print(Text(f"  - {note}"))
    if output is not None:
        console.print(f"  {output / 'results.json'} says how each was measured", soft_wrap=True)
