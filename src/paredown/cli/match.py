"""`paredown match`: which hardware, how many of it, how fast, at what cost. Loads no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from paredown.cli.options import with_settings
from paredown.errors import ConfigError
from paredown.spec.sizing import MatchRequest

if TYPE_CHECKING:
    from paredown.hardware.catalogue import Accelerator
    from paredown.hardware.engines import Habits
    from paredown.hardware.here import Here
    from paredown.hardware.matching import Fit, NoFit, Stream
    from paredown.hardware.memory import Version, Work
    from paredown.spec.model import ModelSpec

ENV_PREFIX = "PAREDOWN_MATCH_"
DEFAULT_CONTEXT, DEFAULT_PROMPT, DEFAULT_OUTPUT = 4096, 512, 128


@dataclass(frozen=True)
class Matched:
    """All that `paredown match` says of serving."""

    spec: ModelSpec
    versions: tuple[Version, ...]
    work: Work | Stream
    fits: tuple[Fit, ...]
    refused: tuple[NoFit, ...]
    here: tuple[Here, ...]
    notes: tuple[str, ...]


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
            "--calibrate", help="Measure this machine once; predictions for it start from there."
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

    if serve and request.train is not None:
        raise ConfigError("--serve and --train are two questions; ask one of them")
    if as_json and as_csv:
        raise ConfigError("--json and --csv are two forms of one thing; leave one of them out")
    form = "json" if as_json else "csv" if as_csv else "text"
    if calibrate:
        _calibrate()
    known = _known_devices(request)
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


def match_serving(
    spec: ModelSpec, devices: tuple[Accelerator, ...], request: MatchRequest
) -> Matched:
    """Versions of a model on devices, and on this machine.

    Raises:
        ConfigError: an unknown precision or runtime, or more tokens than the model reads.
    """
    from paredown.coordinate.versions import versions_of
    from paredown.hardware import matching
    from paredown.hardware.engines import habits, usual
    from paredown.spec.target import Target

    work = work_of(spec, request)
    engine = None if request.runtime is None else habits(request.runtime)
    versions = versions_of(spec, request.precision, Target())
    pairs = [(device, engine or usual(device)) for device in devices]
    fits, refused = matching.match(versions, pairs, work, on_prem=request.on_prem)
    notes = _notes(spec, versions)
    if request.budget is not None:
        budget = request.budget
        kept = [f for f in fits if f.cost is not None and f.cost.hour_low <= budget]
        notes.append(_over_budget(fits, kept, budget))
        fits = kept
    here = () if isinstance(work, matching.Stream) else _here(versions, work, engine)
    return Matched(
        spec, tuple(versions), work, tuple(fits), tuple(refused), here, tuple(filter(None, notes))
    )


def work_of(spec: ModelSpec, request: MatchRequest) -> Work | Stream:
    """The batch or the stream that is asked for.

    Raises:
        ConfigError: more tokens than the model reads, or a prompt that leaves no room.
    """
    from paredown.hardware.matching import Stream
    from paredown.hardware.memory import Work, check_context

    if request.requests_per_s is not None:
        goal = request.slo
        stream = Stream(
            requests_per_s=request.requests_per_s,
            prompt=request.prompt or DEFAULT_PROMPT,
            output=request.output or DEFAULT_OUTPUT,
            ttft_s=None if goal is None else goal.ttft_s,
            tpot_s=None if goal is None else goal.tpot_s,
        )
        check_context(spec, stream.prompt + stream.output)
        return stream
    length = request.context or min(DEFAULT_CONTEXT, spec.context or DEFAULT_CONTEXT)
    check_context(spec, length)
    prompt = request.prompt or min(DEFAULT_PROMPT, length - 1)
    if prompt >= length:
        raise ConfigError(f"--input {prompt} leaves no room in --context {length}; give less")
    return Work(batch=request.batch, context=length, prompt=prompt)


def _notes(spec: ModelSpec, versions: list[Version]) -> list[str]:
    from paredown.spec.cache import find_caches

    notes = []
    if unknown := find_caches(spec).unknown:
        notes.append(f"the cache is unknown ({unknown}): what is shown is a lower bound")
    if spec.experts and not spec.experts_per_token:
        notes.append("how many experts a token is sent to is unknown: all are counted as read")
    if any(v.rate == "fp8" for v in versions):
        notes.append("devices without a rate for fp8 compute it at their 16-bit rate")
    return notes


def _over_budget(fits: list[Fit], kept: list[Fit], budget: float) -> str:
    """What would do, where nothing is cheap enough."""
    priced = [(f.cost.hour_low, f) for f in fits if f.cost is not None]
    if kept or not priced:
        return ""
    cost, least = min(priced, key=lambda pair: pair[0])
    return (
        f"nothing with a known price costs at most {budget:g} USD/h; the cheapest is {least.words} "
        f"at {least.version.name}, from {cost:.2f} USD/h"
    )


def _here(versions: list[Version], work: Work, engine: Habits | None) -> tuple[Here, ...]:
    """This machine's processor, in the engine that was named or in torch."""
    from paredown.hardware.detect import detect
    from paredown.hardware.engines import habits
    from paredown.hardware.here import on_processor
    from paredown.runtimes.calibration import kept

    engine = engine or habits("torch")
    if "cpu" not in engine.vendors:
        return ()
    machine = detect()
    # What was measured is torch; other engines have other kernels.
    known = kept(machine) if engine.name in {"torch", "transformers"} else None
    return tuple(
        on_processor(
            version,
            work,
            engine,
            machine.available_bytes,
            rates=None if known is None else known.rates,
            process_bytes=None if known is None else known.process_bytes,
        )
        for version in versions
    )


def _calibrate() -> None:
    from paredown.hardware.detect import detect
    from paredown.runtimes.calibration import calibrate

    found = calibrate(detect())
    typer.echo(
        f"calibrated with {found.threads} thread(s): memory copied at "
        f"{found.copy_bytes_s / 1e9:.1f} GB/s, 16-bit weights read at "
        f"{found.row_bytes_s / 1e9:.1f} GB/s, 16-bit products at {found.dense_ops_s / 1e9:.0f} "
        f"GFLOP/s, {1e3 * found.layer_s:.2f} ms a layer",
        err=True,
    )


def _known_devices(request: MatchRequest) -> tuple[Accelerator, ...]:
    from paredown.hardware.catalogue import catalogue, find_devices

    known = catalogue(request.catalogue)
    return known if request.gpu is None else find_devices(request.gpu, known)
