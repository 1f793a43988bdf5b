"""Which hardware serves a model: versions of it on devices, and on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from paredown.coordinate.versions import versions_of
from paredown.errors import ConfigError
from paredown.hardware import matching
from paredown.hardware.catalogue import Accelerator, catalogue, find_devices
from paredown.hardware.detect import detect
from paredown.hardware.engines import Habits, habits, usual
from paredown.hardware.here import Here, on_processor
from paredown.hardware.matching import Fit, NoFit, Stream
from paredown.hardware.memory import Version, Work, check_context
from paredown.runtimes.calibration import kept
from paredown.spec.cache import find_caches
from paredown.spec.model import ModelSpec
from paredown.spec.sizing import MatchRequest
from paredown.spec.target import Target

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


def match_serving(
    spec: ModelSpec, devices: tuple[Accelerator, ...], request: MatchRequest
) -> Matched:
    """Versions of a model on devices, and on this machine.

    Raises:
        ConfigError: an unknown precision or runtime, or more tokens than the model reads.
    """
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
    engine = engine or habits("torch")
    if "cpu" not in engine.vendors:
        return ()
    machine = detect()
    known = kept(machine, engine.name)
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


def known_devices(request: MatchRequest) -> tuple[Accelerator, ...]:
    """The devices of the catalogue that a request is about.

    Raises:
        ConfigError: none is so called, or the user's catalogue is damaged.
    """
    known = catalogue(request.catalogue)
    return known if request.gpu is None else find_devices(request.gpu, known)
