"""What a run is about to do and what it needs, said before it starts."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from paredown.coordinate.memory import Beginning
from paredown.coordinate.setup import Prepared
from paredown.methods import registry
from paredown.methods.recommend import calibration_tokens
from paredown.pipeline.disk import need_for
from paredown.spec.sizes import memory_to_quantize

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


def agenda(prepared: Prepared, begins: Beginning, out: Path, *, done: int) -> Agenda:
    """The agenda of a run whose artifacts go to `out`, with `done` trials behind it."""
    config, spec = prepared.config, prepared.base.spec
    firsts = prepared.space.first_of_methods().values()
    disk = need_for(firsts, spec, out)
    named = begins.strategies or tuple(prepared.space.strategies[:1])
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
    )
