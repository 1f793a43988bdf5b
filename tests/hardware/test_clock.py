"""Processor time of another process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from paredown.hardware.clock import cpu_s


def test_threads_are_added_up_in_nanoseconds(tmp_path: Path) -> None:
    for thread, spent in (("7", 1_500_000_000), ("8", 250_000_000)):
        (tmp_path / "7" / "task" / thread).mkdir(parents=True)
        (tmp_path / "7" / "task" / thread / "schedstat").write_text(f"{spent} 99 3\n")
    assert cpu_s(7, proc=tmp_path) == pytest.approx(1.75)


def test_without_schedstat_ticks_are_counted(tmp_path: Path) -> None:
    spent = psutil.Process().cpu_times()
    assert cpu_s(os.getpid(), proc=tmp_path) >= spent.user + spent.system


def test_a_process_that_waits_spends_nothing() -> None:
    code = "import sys\nsum(range(3_000_000))\nprint(1, flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)  # until it waits
        spent = cpu_s(process.pid)
        assert spent > 0.01
        time.sleep(0.1)
        assert cpu_s(process.pid) - spent < 0.01
        process.kill()
