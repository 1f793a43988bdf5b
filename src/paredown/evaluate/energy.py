"""Joules per generated token and per prompt token."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol

import torch

from paredown.analysis.statistics import mean_stderr
from paredown.evaluate.carbon import Estimate, NoEstimateError
from paredown.evaluate.timing import now, prompts
from paredown.hardware.counters import CounterError, EnergyCounter, Nvml, Rapl, open_nvml, open_rapl
from paredown.runtimes.session import Session
from paredown.spec.result import Measurement, Source
from paredown.spec.run import EvaluateConfig
from paredown.spec.units import Unit

_WINDOWS = 3
"""Windows per quantity, for the error."""
_IDLE_S = 1.0
_LEAST_S = {"cpu": 0.0, "cuda": 1.0}
"""Shortest window: a GPU's counter moves some ten times a second."""

Work = Callable[[], int]
"""Does a piece of work and returns how many tokens it was."""


class EnergySource(Protocol):
    """Tells the joules that a stretch of work takes, above those of doing nothing."""

    source: Source

    @property
    def what(self) -> str:
        """What is told, in words."""
        ...

    def window(self) -> AbstractContextManager[list[float]]:
        """Yields a list that gets the joules of the block."""
        ...


class Counted:
    """A counter, with the power at idle taken off."""

    source: Source = "measured"

    def __init__(
        self, counter: EnergyCounter, *, idle_s: float = _IDLE_S, clock: Callable[[], float]
    ) -> None:
        """Does nothing for `idle_s` seconds and looks at what that takes."""
        self._counter, self._clock = counter, clock
        # 0 while it is looked at, because `window` takes it off.
        self.idle_s, self.idle_watts = idle_s, 0.0
        with self.window() as joules:
            start = clock()
            time.sleep(idle_s)
            elapsed = clock() - start
        self.idle_watts = joules[0] / elapsed

    @property
    def what(self) -> str:
        return (
            f"difference of {self._counter.what}, less the power at idle: {self.idle_watts:.1f} W, "
            f"seen for {self.idle_s:g} s before"
        )

    @contextmanager
    def window(self) -> Iterator[list[float]]:
        joules: list[float] = []
        start, before = self._clock(), self._counter.joules()
        yield joules
        elapsed, after = self._clock() - start, self._counter.joules()
        joules.append(after - before - self.idle_watts * elapsed)


class Estimated(Estimate):
    """CodeCarbon's estimate, for machines without a counter."""

    source: Source = "estimated"

    def __init__(self, why: str) -> None:
        """`why` there is no counter, which is told beside the estimate."""
        super().__init__()
        self._why = why

    @property
    def what(self) -> str:
        return f"{super().what}; no counter was read: {self._why}"


@torch.inference_mode()
def measure_energy(
    session: Session, config: EvaluateConfig, *, seed: int = 0
) -> tuple[list[Measurement], list[str]]:
    """Energy of a steady stretch of decoding and of prefilling, batch 1.

    Nothing is measured where `config.energy_s` is 0.

    Returns:
        The measurements `energy` and `prefill_energy`; and, where they are missing, notes that say
        why.
    """
    if config.energy_s == 0:
        return [], []
    device = session.device
    try:
        source = open_source(device)
        generator = torch.Generator().manual_seed(seed)
        prompt = prompts(session, 1, config.prompt_tokens, generator).to(device)
        seconds = max(config.energy_s, _LEAST_S[device])
        found, notes = [], []
        for name, work, what in (
            ("energy", decoding(session, prompt, config.decode_tokens), _decode_words(config)),
            ("prefill_energy", prefilling(session, prompt), f"prompts of {config.prompt_tokens}"),
        ):
            joules = joules_per_token(work, source, seconds=seconds, clock=partial(now, device))
            how = f"{what}, batch 1, {_WINDOWS} windows of at least {seconds:g} s; {source.what}"
            measurement = _measurement(name, joules, source.source, how)
            if measurement is None:
                notes.append(f"{name.replace('_', ' ')}: no more than at idle could be seen")
            else:
                found.append(measurement)
    except (NoEstimateError, CounterError) as error:
        return [], [f"energy was not measured: {error}"]
    return found, notes


def open_source(device: str) -> EnergySource:
    """The best source on this machine.

    Raises:
        NoEstimateError: there is none; the message says what would help.
    """
    counter: Nvml | Rapl | str = open_rapl()
    if device == "cuda":
        counter = open_nvml(str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid))
    if not isinstance(counter, str):
        return Counted(counter, clock=partial(now, device))
    try:
        return Estimated(counter)
    except NoEstimateError as error:
        raise NoEstimateError(f"{counter}; {error}") from None


def joules_per_token(
    work: Work, source: EnergySource, *, seconds: float, clock: Callable[[], float]
) -> list[float]:
    """J/token of each of `_WINDOWS` windows, after a piece of work to warm up.

    Args:
        seconds: a window is closed with the first piece of work that ends after so long.
        clock: waits for the device.
    """
    work()
    found = []
    for _ in range(_WINDOWS):
        tokens, start = 0, clock()
        with source.window() as joules:
            # One piece of work at least, or there would be no tokens to divide by.
            while tokens == 0 or clock() - start < seconds:
                tokens += work()
        found.append(joules[0] / tokens)
    return found


def decoding(session: Session, prompt: torch.Tensor, n_tokens: int) -> Work:
    """Decodes `n_tokens` behind the prompt, which is read once, here."""
    state = session.prefill(prompt)

    def work() -> int:
        # A copy, so that every piece of work begins behind the same prompt; it is small.
        session.decode(session.fork(state), n_tokens)
        return n_tokens

    return work


def prefilling(session: Session, prompt: torch.Tensor) -> Work:
    """Reads the prompt."""

    def work() -> int:
        session.prefill(prompt)
        return int(prompt.numel())

    return work


def _decode_words(config: EvaluateConfig) -> str:
    return f"{config.decode_tokens} tokens after a prompt of {config.prompt_tokens}, repeated"


def _measurement(name: str, joules: list[float], source: Source, how: str) -> Measurement | None:
    """None where noise is as large as what was measured."""
    mean = mean_stderr(joules)
    if mean.value <= 0:
        return None
    return Measurement(
        name=name,
        value=mean.value,
        unit=Unit.JOULES_PER_TOKEN,
        n=mean.n,
        stderr=mean.stderr,
        lower_is_better=True,
        source=source,
        how=how,
    )
