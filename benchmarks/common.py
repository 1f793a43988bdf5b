"""What the benchmarks share: measured child processes and ratios with their spread."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from paredown.analysis.statistics import paired_bootstrap_ci


@dataclass(frozen=True)
class Child:
    """A finished child process."""

    seconds: float
    peak_bytes: int
    result: dict[str, Any]


def run_child(command: list[str], **options: Any) -> Child:
    """Run a command whose last line of output is JSON; watch its peak memory from outside."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    watched, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        try:
            family = [watched, *watched.children(recursive=True)]
            peak = max(peak, sum(p.memory_info().rss for p in family))
        except psutil.Error:
            pass
        time.sleep(0.05)
    if process.returncode or process.stdout is None:
        raise SystemExit(f"{' '.join(command)} failed with code {process.returncode}")
    last = process.stdout.read().strip().splitlines()[-1]
    return Child(time.monotonic() - start, peak, json.loads(last))


class Server:
    """A child process that answers one line of JSON for each line it is sent."""

    def __init__(self, script: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(script), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, line: str) -> dict[str, Any]:
        """Send one line, return the answer."""
        if self.process.stdin is None or self.process.stdout is None:
            raise AssertionError
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        """End it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def ratio_with_interval(over: list[float], under: list[float]) -> tuple[float, float, float]:
    """median(over) / median(under) of paired repeats, with a 95 % bootstrap interval."""
    found = paired_bootstrap_ci(
        over,
        under,
        statistic=lambda a, b: float(statistics.median(a) / statistics.median(b)),
        seed=0,
    )
    return found.value, found.low, found.high
