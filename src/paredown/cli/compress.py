"""`paredown compress`: one strategy, no search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paredown.cli import complete
from paredown.cli.options import with_settings
from paredown.spec.requests import CompressRequest
from paredown.spec.run import CALIBRATION

if TYPE_CHECKING:
    from paredown.api import Compressed

ENV_PREFIX = "PAREDOWN_COMPRESS_"


@with_settings(CompressRequest, env_prefix=ENV_PREFIX, panel=CALIBRATION)
def compress(
    request: CompressRequest,
    *,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            "-s",
            metavar="TEXT",
            help="Methods with parameters, joined by '>': 'structured_afr(ratio=0.1) > gptq'.",
            autocompletion=complete.strategy,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="New folder for the artifact.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Compress a model with one strategy, and prove that the artifact reloads.

    The artifact is an ordinary Hugging Face folder (safetensors) plus paredown.json. It counts as
    done only after a fresh process has loaded it and computed the same logits.

    Settings come from options, then from environment variables (PAREDOWN_COMPRESS_SAMPLES=64),
    then from --config, then from the defaults; `none` stands for no value.
    """
    carry_out(request, strategy, output, as_json=as_json)


def carry_out(request: CompressRequest, strategy: str, output: Path, *, as_json: bool) -> None:
    """Make the artifact, show how it goes, and say what was made."""
    from paredown import api
    from paredown.report.console import make_console
    from paredown.report.live import StepProgress
    from paredown.spec.notation import shared
    from paredown.spec.run import CalibrationConfig

    console = make_console(stderr=as_json)
    with StepProgress(console) as progress:
        done = api.compress(
            request.model,
            strategy,
            output,
            data=request.data,
            calibration=CalibrationConfig(**shared(request, CalibrationConfig)),
            data_dir=request.data_dir,
            device=request.device,
            runtime=request.runtime,
            seed=request.seed,
            trust_remote_code=request.trust_remote_code,
            watch=progress.watch,
        )
    if as_json:
        import json

        print(json.dumps(_document(done), indent=2))
        return
    for line in _lines(done):
        console.print(line, soft_wrap=True)


def _document(done: Compressed) -> dict[str, Any]:
    from paredown.spec.packed import weights_bytes

    return {
        "artifact": str(done.folder),
        "strategy": done.strategy.model_dump(mode="json"),
        "size_bytes": weights_bytes(done.folder),
        "seconds": round(done.seconds, 2),
        "notes": list(done.notes),
        "loads_in": [found.model_dump(mode="json") for found in done.loads_in],
    }


def _lines(done: Compressed) -> list[str]:
    """What was made, in words, and what to do with it."""
    import shlex

    from paredown.methods import registry
    from paredown.spec.packed import weights_bytes
    from paredown.spec.units import human_bytes, human_seconds

    size = human_bytes(weights_bytes(done.folder))
    made = f"{size} of weights, {registry.label(done.strategy)}, {human_seconds(done.seconds)}"
    return [
        f"{done.folder}: {made}",
        *(f"  - {note}" for note in done.notes),
        *(f"  - {found.words}" for found in done.loads_in if found.words),
        f"measure it: {shlex.join(['paredown', 'evaluate', str(done.folder)])}",
    ]
