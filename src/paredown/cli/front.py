"""`paredown front`: the curve of a model, size against loss, each point built and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paredown.cli.options import with_settings
from paredown.spec.requests import FrontRequest
from paredown.spec.run import CALIBRATION

ENV_PREFIX = "PAREDOWN_FRONT_"


@with_settings(FrontRequest, env_prefix=ENV_PREFIX, panel=CALIBRATION)
def front(
    request: FrontRequest,
    *,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Folder; goes on where it stopped."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Show what a model loses at every size, with bits chosen matrix by matrix.

    Each point is a plan that was built, reloaded and measured on text that nothing was chosen on.
    Any can be made again: paredown compress -m MODEL -s 'mixed(plan="DIR/plans/NAME.json")'.

    Settings come from options, then from environment variables (PAREDOWN_FRONT_POINTS=16), then
    from --config, then from the defaults; `none` stands for no value.
    """
    from paredown.coordinate.front import trace_curve
    from paredown.report.console import make_console
    from paredown.report.curve import lines
    from paredown.report.live import StepProgress
    from paredown.spec.progress import StageProgress

    console = make_console(stderr=as_json)
    with StepProgress(console) as progress:

        def watch(name: str) -> StageProgress:
            return lambda stage, share, message: progress.watch(stage, share, f"{name}: {message}")

        record = trace_curve(request, output, watch=watch)
    if as_json:
        print(record.model_dump_json(indent=2))
        return
    for line in lines(record):
        console.print(line, soft_wrap=True)
    console.print(
        f"{output}: report.md, front.html, front.png, front.csv, front.json, plans/", soft_wrap=True
    )
