"""Counters of energy in the hardware: RAPL of Intel and AMD processors, NVML of NVIDIA GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows RAPL; a folder per zone, with `energy_uj` counting microjoules."""
_COUNTED = ("package", "dram")
"""Zones that add up. `core` and `uncore` are parts of a package, `psys` contains it."""
_MOST_WATTS = 1500.0
"""More than any zone takes: a package of the largest servers has some 500 W."""


class CounterError(Exception):
    """A counter has failed between two readings; what lies between them is not known."""


class EnergyCounter(Protocol):
    """Counts joules from some moment on; only differences mean something.

    `joules` raises a `CounterError` where a difference to earlier readings would mean nothing.
    """

    @property
    def what(self) -> str:
        """What is counted, in words."""
        ...

    def joules(self) -> float:
        """Joules since the counter was opened, or since some earlier moment."""
        ...


@dataclass
class _Zone:
    """One RAPL zone; its counter starts again at zero after `range_uj`, or when it is reset."""

    name: str
    file: Path
    range_uj: int
    last_uj: int
    clock: Callable[[], float] = time.monotonic
    total_uj: int = 0

    def __post_init__(self) -> None:
        self._last_s = self.clock()

    def read(self) -> int:
        """Microjoules since the zone was opened, if it is read once per turn of the counter.

        Raises:
            CounterError: it cannot be read any more, or was reset (a suspended machine, a reloaded
                driver): taken for a whole turn, that would add hundreds of kilojoules.
        """
        try:
            now, now_s = int(self.file.read_text()), self.clock()
        except (OSError, ValueError) as error:
            raise CounterError(f"RAPL's {self.name} cannot be read any more: {error}") from None
        step, seconds = now - self.last_uj, now_s - self._last_s
        self.last_uj, self._last_s = now, now_s
        if step < 0:
            step += self.range_uj
            # A second more: short stretches are dominated by when the counter moves.
            if not 0 <= step <= _MOST_WATTS * 1e6 * (seconds + 1.0):
                raise CounterError(f"RAPL's {self.name} was set back while it was read")
        self.total_uj += step
        return self.total_uj


class Rapl:
    """The processors' packages, and their memory where it is counted apart."""

    def __init__(self, zones: list[_Zone]) -> None:
        self._zones = zones

    @property
    def what(self) -> str:
        return f"RAPL ({', '.join(zone.name for zone in self._zones)})"

    def joules(self) -> float:
        return sum(zone.read() for zone in self._zones) / 1e6


class Nvml:
    """One GPU with its memory; the machine around it is not counted."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._last = 0.0

    @property
    def what(self) -> str:
        return "NVML's total energy of the GPU"

    def joules(self) -> float:
        try:
            now = float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._nvml.NVMLError as error:
            raise CounterError(f"NVML does not tell the GPU's energy ({error})") from None
        if now < self._last:  # it counts from the start of the driver, and never turns
            raise CounterError("NVML's total energy of the GPU was set back while it was read")
        self._last = now
        return now


def open_rapl(root: Path = POWERCAP) -> Rapl | str:
    """The counter of the processors, or why there is none.

    There is none where one of several zones cannot be read: a part would pass for all of it.
    """
    zones, hidden, broken = [], False, ""
    for folder in sorted(root.glob("intel-rapl:*")):  # AMD's are called so, too
        try:
            name = (folder / "name").read_text().strip()
            if name.startswith(_COUNTED):
                file = folder / "energy_uj"
                limit = int((folder / "max_energy_range_uj").read_text())
                zones.append(_Zone(name, file, limit, last_uj=int(file.read_text())))
        except PermissionError:
            hidden = True
        except (OSError, ValueError) as error:  # a zone that is switched off, or no number
            broken = broken or f"{folder.name} cannot be read ({error})"
    if hidden:
        return f"RAPL is there, but only root may read it (sudo chmod a+r {root}/*/energy_uj)"
    if broken:
        return f"RAPL is there, but not whole: {broken}"
    return Rapl(zones) if zones else "this processor shows no energy counter (RAPL)"


def open_nvml(uuid: str, library: Any = None) -> Nvml | str:
    """The counter of a GPU, or why there is none.

    Args:
        uuid: as torch tells it, without `GPU-`.
        library: None takes `pynvml`.
    """
    nvml = library
    if nvml is None:
        try:
            import pynvml
        except ImportError:
            return "the GPU's energy counter is read by nvidia-ml-py: pip install 'paredown[gpu]'"
        nvml = pynvml
    try:
        nvml.nvmlInit()
        counter = Nvml(nvml, nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        counter.joules()
    except (nvml.NVMLError, CounterError) as error:
        return f"this GPU shows no energy counter (NVML: {error})"
    return counter
