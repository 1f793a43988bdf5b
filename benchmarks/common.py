"""What the benchmarks share: measured child processes, and ratios with their spread."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from paredown.analysis.statistics import paired_bootstrap_ci

_POLL_S = 0.05


@dataclass(frozen=True)
class Child:
    """A finished child process."""

    seconds: float
    """From start to end, interpreter and imports included."""
    peak_bytes: int
    """Most resident memory that the process and its children held together."""
    result: dict[str, Any]


def run_child(
    command: list[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Child:
    """Run a command whose last line of output is JSON, and watch its memory from outside.

    Its output goes to a file: a library that logs much would fill a pipe and wait for ever.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        start = time.monotonic()
        process = subprocess.Popen(
            command, stdout=output, env=None if env is None else dict(env), cwd=cwd
        )
        peak = 0
        try:
            while process.poll() is None:
                peak = max(peak, _resident(process.pid))
                time.sleep(_POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        seconds = time.monotonic() - start
        output.seek(0)
        lines = output.read().strip().splitlines()
    if process.returncode or not lines:
        tail = "\n".join(lines[-20:])
        raise SystemExit(f"{command[:3]} ended with code {process.returncode}\n{tail}")
    return Child(seconds, peak, json.loads(lines[-1]))


def _resident(pid: int) -> int:
    """Resident bytes of a process and its children; at least the highest of the process itself."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        now = sum(p.memory_info().rss for p in family)
    except psutil.Error:
        return 0
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return now
    high = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return now if high is None else max(now, int(high.split()[1]) * 1024)


class Server:
    """A live child process that answers one line of JSON for each line that it is sent."""

    def __init__(self, script: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(script), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, line: str, *, timeout_s: float = 600.0) -> dict[str, Any]:
        """Send one line, return the answer; a child that died or hangs ends the benchmark."""
        if self.process.stdin is None or self.process.stdout is None:
            raise AssertionError("both pipes were asked for")
        watchdog = threading.Timer(timeout_s, self.process.kill)
        watchdog.start()
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            while answer := self.process.stdout.readline():
                if answer.startswith("{"):  # else something that a library printed
                    found: dict[str, Any] = json.loads(answer)
                    return found
        except BrokenPipeError:
            pass
        finally:
            watchdog.cancel()
        raise SystemExit(f"a benchmark process ended with code {self.process.wait()}")

    def close(self) -> None:
        """End it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians over paired repeats; no interval where there was one repeat only."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f}{interval}"


def ratio(over: list[float], under: list[float]) -> Ratio:
    """median(over) / median(under), repeat by repeat paired, with a 95 % bootstrap interval."""
    if len(over) < 2:
        return Ratio(over[0] / under[0], None, None)
    found = paired_bootstrap_ci(
        over,
        under,
        statistic=lambda a, b: float(statistics.median(a) / statistics.median(b)),
        seed=0,
    )
    return Ratio(found.value, found.low, found.high)


def fresh_home(folder: Path) -> dict[str, str]:
    """Environment with an empty cache of paredown in `folder`; the built-in model is linked."""
    from paredown.artifact.source import locate

    demo = locate("demo")
    (folder / "models").mkdir(parents=True)
    (folder / "models" / demo.name).symlink_to(demo, target_is_directory=True)
    return {**os.environ, "PAREDOWN_HOME": str(folder)}


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of text with aligned columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
