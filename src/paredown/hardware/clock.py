"""Processor time of another process, finer than the ticks that `getrusage` counts in."""

from __future__ import annotations

from pathlib import Path

import psutil


def cpu_s(pid: int, *, proc: Path = Path("/proc")) -> float:
    """Seconds that the threads of a process have run so far, user and system.

    From `schedstat` in nanoseconds where the kernel has it, else in ticks of some milliseconds. It
    is exact while the process waits; threads that have ended are forgotten.

    Args:
        proc: the proc file system.
    """
    files = list((proc / str(pid) / "task").glob("*/schedstat"))
    if not files:
        spent = psutil.Process(pid).cpu_times()
        return float(spent.user + spent.system)
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9
