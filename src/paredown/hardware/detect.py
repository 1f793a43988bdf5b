"""What this machine has: processor, memory, GPUs. Limits of containers count, torch is not asked.

A container sees the whole machine in `/proc`, but may use only what its control groups (cgroups,
version 1 or 2) and its CPU affinity allow; that is what is reported.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from paredown.spec.serial import content_hash

FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
"""Instruction sets that decide how fast low precision runs."""

_NO_LIMIT = 1 << 60  # version 1 writes a huge number where there is no limit


class Gpu(BaseModel):
    """One NVIDIA GPU."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    memory_bytes: int
    free_bytes: int
    """Not in use when it was looked at."""
    compute_capability: str
    """`9.0` for Hopper."""


class Machine(BaseModel):
    """What a process on this machine can use."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    system: str
    """Operating system and architecture, e.g. `Linux x86_64`."""
    cpu: str
    physical_cores: int
    logical_cores: int
    """Processors that this process may run on: affinity and CPU quota count."""
    memory_bytes: int
    """Installed, or the container's limit."""
    available_bytes: int
    """Free for new work, within the container's limit."""
    flags: tuple[str, ...]
    """Those of `FLAGS` that the processor has."""
    gpus: tuple[Gpu, ...] = ()

    @property
    def id(self) -> str:
        """The same for machines on which the same work takes the same time.

        Of the processor, its cores that may be used, and the GPUs: what is free changes all the
        time, and installed memory is told a little differently after every start.
        """
        gpus = [(gpu.name, gpu.memory_bytes, gpu.compute_capability) for gpu in self.gpus]
        cores = [self.physical_cores, self.logical_cores]
        return content_hash([self.system, self.cpu, cores, self.flags, gpus], length=12)


def detect(*, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Machine:
    """Look at this machine (some milliseconds; with a GPU, some tens).

    Args:
        proc: the proc file system.
        cgroups: where control groups are mounted.
    """
    cpu, flags = _processor(proc)
    logical = _logical_cores(proc, cgroups)
    memory, available = _memory(proc, cgroups)
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        cpu=cpu,
        physical_cores=min(psutil.cpu_count(logical=False) or logical, logical),
        logical_cores=logical,
        memory_bytes=memory,
        available_bytes=available,
        flags=flags,
        gpus=_gpus(),
    )


# --- Processor ------------------------------------------------------------------------------------


def _processor(proc: Path) -> tuple[str, tuple[str, ...]]:
    """Name and flags, from `/proc/cpuinfo` where there is one: py-cpuinfo takes a second."""
    text = _read(proc / "cpuinfo")
    if text is None:
        import cpuinfo

        info = cpuinfo.get_cpu_info()
        name, found = str(info.get("brand_raw", "")), set(info.get("flags", ()))
    else:
        lines = (line.partition(":") for line in text.splitlines())
        facts: dict[str, str] = {}
        for key, _, value in lines:
            facts.setdefault(key.strip(), value.strip())
        name = facts.get("model name", "")
        found = set(facts.get("flags", "").split())
    fallback = platform.processor() or platform.machine() or "unknown processor"
    return name or fallback, tuple(flag for flag in FLAGS if flag in found)


def _logical_cores(proc: Path, cgroups: Path) -> int:
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    for folder in _groups("cpu", proc, cgroups):
        quota = _cpu_quota(folder)
        if quota is not None:
            cores = min(cores, max(1, math.ceil(quota)))
    return cores


def _cpu_quota(folder: Path) -> float | None:
    """Processors' worth of time per period, if limited."""
    both = _read(folder / "cpu.max")  # version 2: "200000 100000" or "max 100000"
    if both is not None:
        quota, _, period = both.strip().partition(" ")
    else:
        quota = (_read(folder / "cpu.cfs_quota_us") or "").strip()
        period = (_read(folder / "cpu.cfs_period_us") or "").strip()
    is_limited = quota.isdigit() and period.isdigit() and int(period) > 0
    return int(quota) / int(period) if is_limited else None


# --- Memory ---------------------------------------------------------------------------------------


def _memory(proc: Path, cgroups: Path) -> tuple[int, int]:
    """Total and available bytes: the tightest of the machine and every enclosing group."""
    machine = psutil.virtual_memory()
    total, available = int(machine.total), int(machine.available)
    for folder in _groups("memory", proc, cgroups):
        limit = _number(folder, "memory.max", "memory.limit_in_bytes")
        if limit is None or limit >= _NO_LIMIT:
            continue
        used = _number(folder, "memory.current", "memory.usage_in_bytes") or 0
        total = min(total, limit)
        available = min(available, max(0, limit - used + _reclaimable(folder)))
    return total, available


def _reclaimable(folder: Path) -> int:
    """Bytes of cached files that the kernel gives up on demand."""
    stat = dict(
        line.split(" ", 1) for line in (_read(folder / "memory.stat") or "").splitlines() if line
    )
    return int(stat.get("total_inactive_file") or stat.get("inactive_file") or 0)


def _groups(controller: str, proc: Path, cgroups: Path) -> Iterable[Path]:
    """Folders of this process's control group and of those around it, innermost first.

    Inside a container the path that the kernel names may not exist below the mount; then only the
    folders that do exist are looked at, the mount's root among them.
    """
    for line in (_read(proc / "self" / "cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            mount = cgroups
        elif controller in controllers.split(","):
            named = (cgroups / name for name in (controllers, controller))
            mount = next((folder for folder in named if folder.is_dir()), cgroups)
        else:
            continue
        folder = mount / path.strip().lstrip("/")
        yield from (p for p in (folder, *folder.parents) if p.is_relative_to(mount) and p.is_dir())


def _number(folder: Path, *names: str) -> int | None:
    for name in names:
        text = (_read(folder / name) or "").strip()
        if text.isdigit():
            return int(text)
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


# --- GPUs -----------------------------------------------------------------------------------------


def _gpus() -> tuple[Gpu, ...]:
    """NVIDIA GPUs that this process may use, through NVML; none where NVML is not there."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        count = pynvml.nvmlDeviceGetCount()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        uuids = [_text(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        found = []
        for handle in (handles[i] for i in _visible(uuids)):
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            gpu = Gpu(
                name=_text(pynvml.nvmlDeviceGetName(handle)),
                memory_bytes=int(memory.total),
                free_bytes=int(memory.free),
                compute_capability=f"{major}.{minor}",
            )
            found.append(gpu)
        return tuple(found)
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _visible(uuids: list[str]) -> list[int]:
    """Numbers of the GPUs that `CUDA_VISIBLE_DEVICES` leaves: it lists numbers or UUIDs."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for word in (part.strip() for part in chosen.split(",")):
        if word.isdigit():
            match = [int(word)] if int(word) < len(uuids) else []
        else:
            match = [i for i, uuid in enumerate(uuids) if word and uuid.startswith(word)][:1]
        if not match:  # CUDA ignores everything from the first unknown device on
            break
        found += match
    return found


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
