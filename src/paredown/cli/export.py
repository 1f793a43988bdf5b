"""`paredown export`: an experiment shown elsewhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Tracker(StrEnum):
    """Where experiments can be shown."""

    MLFLOW = "mlflow"


def export(
    to: Annotated[Tracker, typer.Argument(help="mlflow.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Folder of the experiment.", show_default=False)],
    uri: Annotated[
        str | None,
        typer.Option(
            "--uri",
            metavar="ADDRESS",
            help="http://... or sqlite:///FILE; MLFLOW_TRACKING_URI, else mlflow.db beside the "
            "experiment's folder.",
        ),
    ] = None,
    register: Annotated[
        str | None,
        typer.Option(
            "--register", metavar="NAME", help="Register the recommended artifact as this model."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Show an experiment in MLflow: a parent run, and a child run for every episode.

    Finished or not, now or months later: what is there already is left alone, so the same command
    catches up. `paredown run --track mlflow` does it while a run goes on.
    """
    import json
    from dataclasses import asdict

    from paredown.store.experiment import read_experiment
    from paredown.track.mlflow import MlflowTracker

    record = read_experiment(folder)
    tracker = MlflowTracker(uri, beside=folder.resolve().parent)
    done = tracker.sync(record)
    version = None if register is None else tracker.register(record, register)
    if as_json:
        print(json.dumps(asdict(done) | {"registered_version": version}, indent=2))
        return
    new = f"{len(done.added)} of {len(record.results)} episodes were new"
    print(f"{done.uri}: experiment {done.experiment}, run {done.run_id}; {new}")
    if version is not None:
        print(f"registered: {register}, version {version}")
    if done.uri.startswith("sqlite:"):
        print(f"look at it: mlflow server --backend-store-uri {done.uri}")
