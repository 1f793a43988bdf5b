"""`paredown match`: which hardware, how many of it, how fast, at what cost. Loads no weights."""

from __future__ import annotations

from typing import Annotated

import typer

from paredown.cli.options import with_settings
from paredown.errors import ConfigError
from paredown.spec.sizing import MatchRequest

ENV_PREFIX = "PAREDOWN_MATCH_"


@with_settings(MatchRequest, env_prefix=ENV_PREFIX)
def match(
    request: MatchRequest,
    *,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serving, which is what is asked where nothing is said.")
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Measure this machine once, in torch or the --runtime; predictions for it start "
            "from there.",
        ),
    ] = False,
    devices: Annotated[bool, typer.Option("--devices", help="List the devices and stop.")] = False,
    show_all: Annotated[bool, typer.Option("--all", help="Every device, not the best.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a row per pair.")] = False,
) -> None:
    """Find the hardware for a model: memory, number, speed, energy and cost, per precision.

    Nothing is loaded: all follows from the model's config and headers, and from figures of devices
    that say where they are from. Sizes are exact, speeds are estimates; each number says which.
    """
    from paredown.cli import match_text
    from paredown.coordinate.serving import known_devices, match_serving

    if serve and request.train is not None:
        raise ConfigError("--serve and --train are two questions; ask one of them")
    if as_json and as_csv:
        raise ConfigError("--json and --csv are two forms of one thing; leave one of them out")
    form = "json" if as_json else "csv" if as_csv else "text"
    if calibrate:
        _calibrate(request.runtime)
    known = known_devices(request)
    if devices:
        match_text.show_devices(known, form=form)
        return
    if request.model is None:
        if calibrate:
            return
        raise ConfigError("give a model: paredown match -m demo")
    check_together(request)
    from paredown.artifact.source import spec_of

    spec = spec_of(request.model)
    if request.train is not None:
        from paredown.cli.match_training import match_training, show_training

        show_training(match_training(spec, known, request), form=form, show_all=show_all)
        return
    match_text.show(match_serving(spec, known, request), form=form, show_all=show_all)


def check_together(request: MatchRequest) -> None:
    """Refuse settings that would be accepted and ignored.

    Raises:
        ConfigError: naming the first of them.
    """
    given = {name for name in request.model_fields_set if name != "model"}
    if request.train is not None:
        what = "training"
        strange = given & {
            "precision", "prompt", "requests_per_s", "output", "slo", "runtime",
        }  # fmt: skip
    elif request.requests_per_s is not None:
        what = "a stream of requests"
        strange = given & {"batch", "context", "rank", "optimizer", "checkpointing"}
    else:
        what = "a batch"
        strange = given & {"output", "slo", "rank", "optimizer", "checkpointing"}
    if strange:
        name = "input" if "prompt" in strange else min(strange)
        raise ConfigError(
            f"--{name.replace('_', '-')} has no meaning for {what}; leave it out"
            + ("" if what != "a batch" else ", or add --requests-per-s or --train")
        )


def _calibrate(runtime: str | None) -> None:
    from paredown.hardware.detect import detect
    from paredown.runtimes.calibration import TORCH, calibrate
    from paredown.runtimes.registry import engine

    name = runtime or TORCH
    engine(name)  # what is missing is told before anything is measured
    found = calibrate(detect(), name)
    typer.echo(
        f"calibrated {name} with {found.threads} thread(s): memory copied at "
        f"{found.copy_bytes_s / 1e9:.1f} GB/s, 16-bit weights read at "
        f"{found.row_bytes_s / 1e9:.1f} GB/s, 16-bit products at {found.dense_ops_s / 1e9:.0f} "
        f"GFLOP/s, {1e3 * found.layer_s:.2f} ms a layer",
        err=True,
    )
    if found.is_disturbed:
        typer.echo(
            f"  other work took {found.others:.0%} of the processors meanwhile: this machine "
            "can do better; calibrate again when it is idle",
            err=True,
        )
