"""A version of a model on the processor of this machine, by rates that were measured on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from paredown.hardware.engines import Habits
from paredown.hardware.estimate import Estimate
from paredown.hardware.memory import Memory, Version, Work, serving_memory
from paredown.hardware.timing import Rates, decode_step, prefill_s


@final
@dataclass(frozen=True, kw_only=True)
class Here:
    """A version on this machine's processor.

    Attributes:
        free_bytes: that may be used.
        ttft_s, tpot_s: None where the machine was never calibrated.
    """

    version: Version
    engine: Habits
    memory: Memory
    free_bytes: int
    ttft_s: Estimate | None
    tpot_s: Estimate | None

    @property
    def fits(self) -> bool | None:
        """Whether it has so much free; None where the cache is unknown."""
        total = self.memory.total
        return None if total is None else total.value <= self.free_bytes


def on_processor(
    version: Version,
    work: Work,
    engine: Habits,
    free_bytes: int,
    *,
    rates: Rates | None,
    process_bytes: float | None = None,
) -> Here:
    """A version served by this machine's processor.

    Args:
        rates: that were measured; None: speed stays unknown.
        process_bytes: of the engine's process before any weight, where it was measured.
    """
    memory = serving_memory(version, work, engine, on_gpu=False, process_bytes=process_bytes)
    timed = rates is not None and not memory.unknown
    return Here(
        version=version, engine=engine, memory=memory, free_bytes=free_bytes,
        ttft_s=prefill_s(version, work, engine, rates) if timed and rates else None,
        tpot_s=decode_step(version, work, engine, rates).seconds if timed and rates else None,
    )  # fmt: skip
