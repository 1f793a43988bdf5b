"""Checks in the sandbox, one or many at a time."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from paredown.errors import ConfigError, ParedownError
from paredown.evaluate.sandbox.levels import (
    Level,
    bubblewrap_prefix,
    interpreter,
    readable_paths,
)
from paredown.evaluate.sandbox.seccomp import seccomp_program
from paredown.evaluate.sandbox.watch import Watched, watch

Status = Literal["passed", "failed", "timeout", "memory", "killed"]

_LAUNCHER = (Path(__file__).parent / "launcher.py").read_text(encoding="utf-8")
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # the same order of sets, hence the same verdict, every time
    "PYTHONUTF8": "1",
}


class SandboxError(ParedownError):
    """The sandbox itself failed, so nothing is known about the program."""


@dataclass(frozen=True, kw_only=True)
class SandboxLimits:
    """What one check may use. The program and its test have each their own processor and memory."""

    cpu_s: int = 5
    """Processor time, seconds; fair on a busy machine, so the limit that normally decides."""
    wall_s: float = 20.0
    """Time on the clock once the sandbox is ready, seconds: for programs that sleep."""
    memory_bytes: int = 1 << 30
    """Address space, bytes."""
    output_bytes: int = 8 << 20
    """Text that may be printed, bytes."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ConfigError(f"{name} must be more than 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class Check:
    """A program to be judged.

    Attributes:
        program: Python source, not trusted, that defines `entry_point`.
        entry_point: the name of a function.
        test: Python source that defines `check(candidate)`, which calls `candidate` as if it were
            the function and raises if it is wrong. Arguments and answers must be plain data:
            None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset; the
            function gets copies. Runs in the sandbox, too, in a process of its own.
    """

    program: str
    entry_point: str
    test: str


@dataclass(frozen=True, kw_only=True)
class SandboxOutcome:
    """What became of a check.

    Attributes:
        status: `passed`, or `failed` (a wrong answer or an exception), `timeout`, `memory`,
            `killed` (it ended before it answered, or printed too much).
        reason: in words; empty if passed. Text of the program's choice may be in it.
        stdout, stderr: the last of what the program printed.
        seconds: on the clock, with the start of the sandbox.
    """

    status: Status
    reason: str
    stdout: str
    stderr: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the function answered every call rightly."""
        return self.status == "passed"


@dataclass(frozen=True)
class Sandbox:
    """A way to judge code that is not trusted. Take the strongest by `open_sandbox`."""

    level: Level
    limits: SandboxLimits = field(default_factory=SandboxLimits)

    def describe(self) -> str:
        """One line for results: the fence and the limits."""
        limits = self.limits
        return (
            f"{self.level.meaning}; {limits.cpu_s} s of processor, {limits.wall_s:g} s of time "
            f"and {limits.memory_bytes / (1 << 20):.0f} MiB each"
        )

    def check(self, task: Check) -> SandboxOutcome:
        """Run one program against its test.

        Raises:
            SandboxError: the sandbox did not start; says why.
        """
        start = time.monotonic()
        with self._start(task) as (process, verdict):
            assert process.stdout is not None
            assert process.stderr is not None
            seen = watch(
                verdict,
                process.stdout.fileno(),
                process.stderr.fileno(),
                wall_s=self.limits.wall_s,
                output_bytes=self.limits.output_bytes,
            )
        status, reason = _judge(seen, self.limits)
        return SandboxOutcome(
            status=status,
            reason=reason,
            stdout=seen.stdout.decode(errors="replace"),
            stderr=seen.stderr.decode(errors="replace"),
            seconds=time.monotonic() - start,
        )

    def check_all(self, tasks: Sequence[Check], *, jobs: int | None = None) -> list[SandboxOutcome]:
        """Run many, `jobs` at a time (default: one per processor this process may use)."""
        with ThreadPoolExecutor(jobs or _processors()) as pool:
            return list(pool.map(self.check, tasks))

    @contextmanager
    def _start(self, task: Check) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """The running sandbox and the pipe that its verdict comes from; killed at the end."""
        verdict, to_host = os.pipe()
        try:
            with tempfile.TemporaryFile() as file:  # no name: only the checker can read it
                file.write(json.dumps(vars(task)).encode())
                file.seek(0)
                process = subprocess.Popen(
                    self._command(to_host),
                    stdin=file,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=[to_host],  # and no other descriptor
                    env=_ENVIRONMENT,  # and no other variable: keys and tokens live there
                    cwd="/",
                    start_new_session=True,  # no terminal, and one group to kill
                )
        except OSError as error:  # a program that cannot be run: the next level may
            os.close(verdict)
            raise SandboxError(f"the sandbox did not start: {error}") from None
        except BaseException:
            os.close(verdict)
            raise
        finally:
            os.close(to_host)
        try:
            yield process, verdict
        finally:
            os.close(verdict)
            _kill(process)

    def _command(self, verdict: int) -> list[str]:
        fenced = self.level is not Level.LIMITS
        settings = {
            "cpu_s": self.limits.cpu_s,
            "memory_bytes": self.limits.memory_bytes,
            "readable": readable_paths() if self.level is Level.LANDLOCK else None,
            "seccomp": seccomp_program(platform.machine()).hex() if fenced else None,
            "verdict": verdict,
        }
        prefix = bubblewrap_prefix() if self.level is Level.BUBBLEWRAP else []
        flags = ["-s", "-S", "-P", "-B", "-u"]  # standard library alone, nothing written late
        return [*prefix, interpreter(), *flags, "-c", _LAUNCHER, json.dumps(settings)]


def _judge(seen: Watched, limits: SandboxLimits) -> tuple[Status, str]:
    """Status and reason. Only the checker's own word makes a pass."""
    if not seen.lines:
        printed = seen.stderr.decode(errors="replace").strip().splitlines()
        why = "not in time" if seen.ended == "late" else "it ended without a word"
        raise SandboxError(f"the sandbox did not start: {printed[-1] if printed else why}")
    if seen.ended == "flood":
        return "killed", f"printed more than {limits.output_bytes} bytes"
    if seen.ended == "late":
        return "timeout", f"no end after {limits.wall_s:g} s"
    if len(seen.lines) == 2:
        status, reason = json.loads(seen.lines[1])
        return status, reason
    return "killed", "the test itself reached a limit over the answer"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the sandbox and all that is in it; never blocks on what it left behind."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _processors() -> int:
    """Processors that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
