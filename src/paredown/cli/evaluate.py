"""`paredown evaluate`: measure a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="Artifact, model folder, hub name, or 'demo'.")],
    data: Annotated[
        str,
        typer.Option(
            "--data", "-d", help="Text to measure on: pydoc, self, wikitext2, or a file or folder."
        ),
    ] = "pydoc",
    base: Annotated[
        str | None, typer.Option(help="Model to compare with; default: the artifact's own base.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for results.json.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of held-out text.")] = 8192,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with offline data sets (also: PAREDOWN_DATA).")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Measure a model: perplexity, KL to its base, latency, memory, size, each with its error."""
    from rich.console import Console
    from rich.text import Text

    from paredown import api
    from paredown.cli.live import StepProgress
    from paredown.cli.settings import evaluate_config
    from paredown.report.tables import MEASUREMENT_COLUMNS, measurement_rows
    from paredown.report.terminal import TextTable
    from paredown.spec.serial import readable
    from paredown.store.atomic import write_json

    console = Console(stderr=as_json, highlight=False)
    with StepProgress(console) as progress:
        result = api.evaluate(
            model,
            base=base,
            data=data,
            config=evaluate_config(tokens),
            data_dir=data_dir,
            device=device,
            watch=progress.watch,
        )
    if output is not None:
        write_json(output / "results.json", result)
    if as_json:
        print(readable(result), end="")
        return
    console.print(
        TextTable(columns=MEASUREMENT_COLUMNS, rows=measurement_rows(result), title=result.label)
    )
    for note in result.notes:
        console.print(Text(f"  - {note}"))
