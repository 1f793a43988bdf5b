"""`paredown resume`: go on with an experiment; its folder holds the request."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paredown.cli.run import AsJson, Interactive, Quiet, Track, carry_out


def resume(
    folder: Annotated[Path, typer.Argument(help="Folder of the experiment.", show_default=False)],
    episodes: Annotated[
        int | None,
        typer.Option(
            "--episodes",
            "-e",
            min=1,
            help="Strategies to try in all; more than before goes on "
            "with an experiment that has ended.",
        ),
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", "-b", metavar="HOURS", help="Hours from now on.")
    ] = None,
    interactive: Interactive = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    track: Track = None,
) -> None:
    """Go on with an experiment that was interrupted, or that is to try more.

    Everything else is as it was asked for: the request stands in the folder's run.json.
    """
    from paredown.spec.explain import checked
    from paredown.spec.run import RunConfig
    from paredown.store.experiment import read_experiment

    record = read_experiment(folder)
    changes = {"episodes": episodes, "budget_h": budget}
    said = {name: value for name, value in changes.items() if value is not None}
    # Validated again, because copying alone would let anything through.
    request = checked(RunConfig, record.config.model_dump() | said) if said else record.config
    carry_out(
        request, record.folder.name, record.folder.parent,
        resume=True, interactive=interactive, quiet=quiet, as_json=as_json, track=track,
    )  # fmt: skip
