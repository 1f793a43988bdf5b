"""What a run is about to do and what it needs, said before it starts."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from paredown.coordinate.memory import Beginning
from paredown.coordinate.setup import Prepared
from paredown.coordinate.versions import stored_version
from paredown.hardware.catalogue import shipped
from paredown.hardware.engines import ENGINES, usual
from paredown.hardware.matching import match
from paredown.hardware.memory import Work, serving_memory
from paredown.methods import registry
from paredown.methods.recommend import calibration_tokens
from paredown.pipeline.disk import need_for
from paredown.runtimes.room import has_room
from paredown.spec.sizes import memory_to_quantize

STREAMS = "torch"
"""The engine that judges a model without holding it."""
FIRST = 3
"""Strategies that are named beforehand."""


class Agenda(BaseModel):
    """Trials, and what they take. What is not known before the base is measured is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    trials: int
    """At most, after the base; those of earlier sessions are taken off."""
    hours: float | None
    """For all of them together; None: as long as it takes."""
    possible: int
    """Strategies of the space."""
    policy: str
    first: tuple[str, ...]
    """What is tried first, for people."""
    disk_bytes: int
    """For a trial, its artifact and what it puts into the cache, at most."""
    disk_free_bytes: int
    """Where the artifacts go."""
    memory_bytes: int | None
    """Of a process that quantizes block by block, estimated; None where blocks are not known."""
    memory_free_bytes: int
    serve_bytes: int | None = None
    """Of the process that measures the base, estimated; None where it cannot be said."""
    is_judged_only: bool = False
    """Whether the base will be judged block by block from disk, and not timed: see `evaluate`."""
    serve_devices: str = ""
    """The cheapest to rent that would serve the base, for those who look for more."""
    serve_not_on: str = ""
    """The largest device of which one is too small for the base; empty where each would do."""


def agenda(prepared: Prepared, begins: Beginning, out: Path, *, done: int) -> Agenda:
    """The agenda of a run whose artifacts go to `out`, with `done` trials behind it."""
    config, spec = prepared.config, prepared.base.spec
    firsts = prepared.space.first_of_methods().values()
    disk = need_for(firsts, spec, out)
    named = begins.strategies or tuple(prepared.space.strategies[:1])
    base = stored_version(spec, "base")
    measure = config.evaluate
    work = Work(
        batch=1,
        context=measure.prompt_tokens + measure.decode_tokens,
        prompt=measure.prompt_tokens,
    )
    engine = ENGINES.get(config.runtime)
    served = None if engine is None else serving_memory(base, work, engine, on_gpu=False).total
    fits, refused = match([base], [(device, usual(device)) for device in shipped()], work)
    small = [f.device for f in fits if f.layout.devices > 1] + [r.device for r in refused]
    may_stream = config.runtime == STREAMS and measure.stream != "never"
    is_large = not has_room(spec.weight_bytes, prepared.target.device)
    return Agenda(
        trials=max(config.episodes - done, 0),
        hours=config.budget_h,
        possible=len(prepared.space.strategies),
        policy=config.policy,
        first=tuple(registry.label(strategy) for strategy in named[:FIRST]) if not done else (),
        disk_bytes=disk.nbytes * config.workers,
        disk_free_bytes=disk.free,
        memory_bytes=memory_to_quantize(spec, calibration_tokens()),
        memory_free_bytes=prepared.machine.available_bytes,
        serve_bytes=None if served is None else round(served.value),
        is_judged_only=may_stream and (is_large or measure.stream == "always"),
        serve_devices=fits[0].words if fits else "",
        serve_not_on=max(small, key=lambda d: d.usable_bytes).name if small else "",
    )
