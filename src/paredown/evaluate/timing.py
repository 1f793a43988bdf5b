"""Timed passes of a model, repeated until their medians are known well enough."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from paredown.analysis.statistics import median_spread
from paredown.runtimes.session import Session

TIGHT = 0.05
"""Half-width of a median's 95 % interval, relative, at which repeats may end."""
_Z95 = 1.96


@dataclass
class Times:
    """Seconds of each repeat: of reading the prompt, and of decoding all tokens."""

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)

    def add(self, seconds: tuple[float, float]) -> None:
        """One more repeat."""
        self.prefill.append(seconds[0])
        self.decode.append(seconds[1])

    @property
    def tight(self) -> bool:
        """Whether both medians are known well enough."""
        return is_tight(self.prefill) and is_tight(self.decode)


def is_tight(values: list[float]) -> bool:
    """Whether the median's 95 % interval is within `TIGHT` of it."""
    if len(values) < 2:
        return False
    spread = median_spread(values)
    return _Z95 * (spread.stderr or 0.0) <= TIGHT * abs(spread.value)


def repeat(
    once: Callable[[], None], tight: Callable[[], bool], *, at_least: int, budget_s: float
) -> None:
    """Call `once` `at_least` times, then until `tight` holds or `budget_s` seconds have passed."""
    start, done = time.perf_counter(), 0
    while done < at_least or not (tight() or time.perf_counter() - start > budget_s):
        once()
        done += 1


def prompts(session: Session, batch: int, length: int, generator: torch.Generator) -> Tensor:
    """(batch, length) random tokens."""
    return torch.randint(0, session.vocabulary, (batch, length), generator=generator)


def timed(session: Session, prompt: Tensor, n_decode: int) -> tuple[float, float]:
    """Seconds of reading the prompt, and of greedily decoding `n_decode` tokens behind it."""
    start = now(session.device)
    state = session.prefill(prompt)
    middle = now(session.device)
    session.decode(state, n_decode)
    return middle - start, now(session.device) - middle


def now(device: str) -> float:
    """Seconds on the clock, when the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def machine_words(device: str) -> str:
    """Device, threads and clock, for protocols."""
    where = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return f"{where}, {torch.get_num_threads()} threads, time.perf_counter"
