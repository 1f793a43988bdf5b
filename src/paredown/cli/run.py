"""`paredown run`: the main job."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paredown.cli.export import Tracker
from paredown.cli.options import with_settings
from paredown.spec.run import RunConfig

if TYPE_CHECKING:
    from paredown.coordinate.steering import Steering
    from paredown.report.live import Display
    from paredown.store.experiment import ExperimentRecord
    from paredown.track.live import Live

ENV_PREFIX = "PAREDOWN_RUN_"
Name = Annotated[
    str | None,
    typer.Option(
        "--experiment-name", "-n", metavar="NAME", help="Name of the experiment's folder."
    ),
]
Output = Annotated[
    Path, typer.Option("--output-dir", "-o", metavar="DIR", help="Folder that holds experiments.")
]
Interactive = Annotated[
    bool,
    typer.Option(
        "--interactive",
        "-i",
        help="Live view of the front; commands typed while it runs (type help) steer it.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the end only.")]
Track = Annotated[
    Tracker | None,
    typer.Option(
        "--track",
        help="Show the run in a tracker as it goes; `paredown export` does it later.",
        show_default=False,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Events as lines of JSON on standard output, and nothing else."),
]


@with_settings(RunConfig, env_prefix=ENV_PREFIX)
def run(
    request: RunConfig,
    *,
    experiment_name: Name = None,
    output_dir: Output = Path("data/experiments"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an experiment that exists.")
    ] = False,
    interactive: Interactive = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    track: Track = None,
    plan_only: Annotated[
        bool,
        typer.Option(
            "--plan-only", help="Check everything, say what the run would do and need, and end."
        ),
    ] = False,
    show_spec: Annotated[
        bool, typer.Option("--show-spec", help="Show what is known of the model, and end.")
    ] = False,
) -> None:
    """Search for the compressed versions of a model that are worth having.

    Only the model is required. Everything lands in OUTPUT_DIR/EXPERIMENT_NAME: report.md, plots,
    every measurement, and the artifacts on the Pareto front. `paredown resume DIR` goes on with a
    run that was killed.

    Settings come from options, then from environment variables, then from --config, then from the
    defaults. An option is the setting's name: `evaluate: {window: 256}` in a file is --eval-window
    256, and PAREDOWN_RUN_EVALUATE__WINDOW=256. Lists are repeated or written with commas; `none`
    stands for no value.
    """
    if show_spec:
        from paredown.cli.spec import show

        show(request.model, as_json=as_json)
        return
    if plan_only:
        _show_plan(request, output_dir, as_json=as_json)
        return
    carry_out(
        request, experiment_name, output_dir,
        resume=resume, interactive=interactive, quiet=quiet, as_json=as_json, track=track,
    )  # fmt: skip


def _show_plan(request: RunConfig, output_dir: Path, *, as_json: bool) -> None:
    from paredown.coordinate.run import plan_experiment
    from paredown.coordinate.steering import Steering

    display = _display(request, Steering(), interactive=False, quiet=as_json, as_json=False)
    with display:
        found = plan_experiment(request, output_dir=output_dir, listen=display)
    if as_json:
        print(found.model_dump_json(indent=2))


def carry_out(
    request: RunConfig,
    name: str | None,
    output_dir: Path,
    *,
    resume: bool,
    interactive: bool,
    quiet: bool,
    as_json: bool,
    track: Tracker | None,
) -> None:
    """Run an experiment, show how it goes, and what it found.

    Raises:
        ConfigError: the request is wrong, or is to be shown in two ways at once.
    """
    from paredown.coordinate.steering import Steering
    from paredown.errors import ConfigError

    if interactive and (quiet or as_json):
        raise ConfigError("--interactive shows the run as it goes; leave out --quiet and --json")
    steering = Steering()
    display = _display(request, steering, interactive=interactive, quiet=quiet, as_json=as_json)
    with _tracked(request, name, output_dir, track) as told:
        listen = _both(display, told)
        record = _execute(request, display, listen, steering, name, output_dir, resume=resume)
    if as_json:
        return
    if not display.results:
        print(f"experiment {record.name!r} is finished; nothing was left to do\n")
    from paredown.cli.analyze import analyze

    analyze(record.folder)


def _display(
    request: RunConfig, steering: Steering, *, interactive: bool, quiet: bool, as_json: bool
) -> Display:
    """What shows the events of the run."""
    from paredown.report.console import make_console
    from paredown.report.live import Display, RunProgress

    if as_json:
        from paredown.cli.lines import JsonLines

        return JsonLines(sys.stdout, only_the_end=quiet)
    if quiet:
        return Display()
    if interactive:
        from paredown.cli.interactive import InteractiveProgress

        return InteractiveProgress(make_console(), request.episodes, request.objectives, steering)
    return RunProgress(make_console(), request.episodes, request.objectives)


@contextmanager
def _tracked(
    request: RunConfig, name: str | None, output_dir: Path, track: Tracker | None
) -> Iterator[Live | None]:
    """What tells a tracker of the run, and says at its end what could not be told."""
    if track is None:
        yield None
        return
    from paredown.coordinate.setup import default_name
    from paredown.track.live import Live
    from paredown.track.mlflow import MlflowTracker

    folder = output_dir / (name or default_name(request))
    live = Live(folder, MlflowTracker(beside=output_dir).sync)
    try:
        with live:
            yield live
    finally:
        if live.trouble is not None:
            again = shlex.join(["paredown", "export", track.value, str(folder)])
            typer.echo(f"not all is in the tracker ({live.trouble}); later: {again}", err=True)


def _both(display: Display, told: Live | None) -> Callable[[str, dict[str, Any]], None]:
    def listen(event: str, fields: dict[str, Any]) -> None:
        display(event, fields)
        if told is not None:
            told(event, fields)

    return listen


def _execute(
    request: RunConfig,
    display: Display,
    listen: Callable[[str, dict[str, Any]], None],
    steering: Steering,
    name: str | None,
    output_dir: Path,
    *,
    resume: bool,
) -> ExperimentRecord:
    from paredown.coordinate.run import run_experiment
    from paredown.coordinate.setup import default_name

    try:
        with display:
            record = run_experiment(
                request,
                name=name,
                output_dir=output_dir,
                resume=resume,
                listen=listen,
                steering=steering,
            )
            display.end(record)
    except KeyboardInterrupt:
        folder = output_dir / (name or default_name(request))
        again = shlex.join(["paredown", "resume", str(folder)])
        typer.echo(f"interrupted; what was finished is kept. To go on: {again}", err=True)
        raise typer.Exit(130) from None
    return record
