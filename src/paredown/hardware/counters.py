"""Counters of energy in the hardware: RAPL of Intel and AMD processors, NVML of NVIDIA GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows RAPL; a folder per zone, with `energy_uj` counting microjoules."""
_COUNTED = ("package", "dram")
"""Zones that add up. `core` and `uncore` are parts of a package, `psys` contains it."""


class EnergyCounter(Protocol):
    """Counts joules from some moment on; only differences mean something."""

    @property
    def what(self) -> str:
        """What is counted, in words."""
        ...

    def joules(self) -> float:
        """Joules since the counter was opened, or since some earlier moment."""
        ...


@dataclass
class _Zone:
    """One RAPL zone; its counter starts again at zero after `range_uj`."""

    name: str
    file: Path
    range_uj: int
    last_uj: int
    total_uj: int = 0

    def read(self) -> int:
        """Microjoules since the zone was opened, if it is read once per turn of the counter."""
        now = int(self.file.read_text())
        step = now - self.last_uj
        self.total_uj += step if step >= 0 else step + self.range_uj
        self.last_uj = now
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

    @property
    def what(self) -> str:
        return "NVML's total energy of the GPU"

    def joules(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3


def open_rapl(root: Path = POWERCAP) -> Rapl | str:
    """The counter of the processors, or why there is none."""
    zones, hidden = [], False
    for folder in sorted(root.glob("intel-rapl:*")):  # AMD's are called so, too
        try:
            name = (folder / "name").read_text().strip()
            if name.startswith(_COUNTED):
                file = folder / "energy_uj"
                limit = int((folder / "max_energy_range_uj").read_text())
                zones.append(_Zone(name, file, limit, last_uj=int(file.read_text())))
        except PermissionError:
            hidden = True
        except (OSError, ValueError):  # a zone that is switched off
            continue
    if hidden:  # a part of the energy would pass for all of it
        return f"RAPL is there, but only root may read it (sudo chmod a+r {root}/*/energy_uj)"
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
    except nvml.NVMLError as error:
        return f"this GPU shows no energy counter (NVML: {error})"
    return counter
