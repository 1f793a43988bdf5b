"""`paredown compress`: one strategy, no search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compress(
    model: Annotated[str, typer.Option("--model", "-m", help="Local folder, hub name, or 'demo'.")],
    strategy: Annotated[
        str,
        typer.Option("--strategy", "-s", help="e.g. 'gptq(bits=4)' or 'l2_structured > rtn'."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the artifact.")],
    data: Annotated[
        str, typer.Option("--data", "-d", help="Text whose training part calibrates.")
    ] = "pydoc",
    samples: Annotated[int, typer.Option(help="Calibration windows.")] = 32,
    length: Annotated[int, typer.Option(help="Tokens per calibration window.")] = 512,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with offline data sets (also: PAREDOWN_DATA).")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    runtime: Annotated[
        str,
        typer.Option(help="Engine that must load the artifact; 'paredown runtimes' lists them."),
    ] = "torch",
    seed: Annotated[int, typer.Option(help="Same seed, same artifact.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Compress a model with one strategy, and prove that the artifact reloads.

    The artifact is an ordinary Hugging Face folder (safetensors) plus paredown.json. It counts as
    done only after a fresh process has loaded it and computed the same logits.
    """
    import json

    from rich.console import Console
    from rich.text import Text

    from paredown import api
    from paredown.cli.live import StepProgress
    from paredown.cli.settings import calibration_config
    from paredown.methods import registry
    from paredown.spec.packed import weights_bytes
    from paredown.spec.units import human_bytes, human_seconds

    console = Console(stderr=as_json, highlight=False)
    with StepProgress(console) as progress:
        done = api.compress(
            model,
            strategy,
            output,
            data=data,
            calibration=calibration_config(samples, length),
            data_dir=data_dir,
            device=device,
            runtime=runtime,
            seed=seed,
            watch=progress.watch,
        )
    size = weights_bytes(done.folder)
    if as_json:
        document = {
            "artifact": str(done.folder),
            "strategy": done.strategy.model_dump(mode="json"),
            "size_bytes": size,
            "seconds": round(done.seconds, 2),
            "notes": list(done.notes),
            "loads_in": [found.model_dump(mode="json") for found in done.loads_in],
        }
        print(json.dumps(document, indent=2))
        return
    console.print(
        Text(
            f"{done.folder}: {human_bytes(size)} of weights, {registry.label(done.strategy)}, "
            f"{human_seconds(done.seconds)}"
        )
    )
    for note in (*done.notes, *filter(None, (found.words for found in done.loads_in))):
        console.print(Text(f"  - {note}"))
    console.print(Text(f"measure it: paredown evaluate {done.folder}"))
