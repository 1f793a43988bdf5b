"""Watching a worker process: its limits, its end, and what it left."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
from pydantic import TypeAdapter

from paredown.pipeline.executors.worker import MENDED_FILE, PROGRESS_FILE, RESULT_FILE
from paredown.pipeline.messages import D, Failed, Job
from paredown.spec.progress import Progress
from paredown.spec.result import Failure, FailureKind
from paredown.spec.units import human_bytes

PROCESSES = threading.Lock()
"""Held while a process is started or its exit code is read. Of the module: what multiprocessing
does at both goes over all children of this Python process."""
_POLL_S = 0.1
_AGAIN_S = 2.0
"""What a worker said last is told again after so long, so that a listener knows that it goes on."""
_LOST = 255
"""Exit code that multiprocessing gives to a worker that ended with its fork server."""


@dataclass(frozen=True)
class Limits:
    """How far a worker may go; `allowed` is its time in words."""

    memory_bytes: float
    deadline: float
    allowed: str

    def broken_by(self, pid: int) -> Failure | None:
        if time.monotonic() > self.deadline:
            message = f"stopped after {self.allowed}"
            return Failure(kind=FailureKind.TIMEOUT, message=message)
        used = _memory(pid)
        if used > self.memory_bytes:
            limit = human_bytes(self.memory_bytes)
            message = f"stopped at {human_bytes(used)}: the limit is {limit}"
            return Failure(kind=FailureKind.OUT_OF_MEMORY, message=message)
        return None


def wait_for(
    process: BaseProcess,
    folder: Path,
    limits: Limits,
    is_stopped: Callable[[], bool],
    watch: Progress | None,
) -> Failure | None:
    """Wait until the worker ends, must end for a limit (the reason is returned), or is stopped."""
    pid = _pid(process)
    tell = None if watch is None else Teller(folder / PROGRESS_FILE, watch)
    while not connection.wait([process.sentinel], _POLL_S):
        if is_stopped():
            return None
        reason = limits.broken_by(pid)
        if reason is not None:
            return reason
        if tell is not None:
            tell()
    return None


@contextmanager
def ended(process: BaseProcess) -> Iterator[None]:
    """Whatever happens in this context, the worker has ended after it."""
    try:
        yield
    finally:
        if not connection.wait([process.sentinel], 0):
            pid = _pid(process)
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # it may not have made its group yet
            connection.wait([process.sentinel])
        with PROCESSES:
            process.join()  # no zombie, and the exit code is read


def exit_code(process: BaseProcess) -> int:
    """Of a process that has `ended`; -n where signal n ended it."""
    with PROCESSES:
        code = process.exitcode
    if code is None:
        raise AssertionError("it has ended")
    return -signal.SIGKILL if code == _LOST else code


def _pid(process: BaseProcess) -> int:
    if process.pid is None:
        raise AssertionError("it has begun")
    return process.pid


def _memory(pid: int) -> int:
    """Resident memory of a process and its children, bytes; 0 once it is gone."""
    try:
        process = psutil.Process(pid)
        return sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))
    except psutil.Error:
        return 0


class Teller:
    """Tells what a worker says of its progress when that is new, and now and then when it is not.

    Until it has said anything, it is loading its libraries and what it needs.
    """

    def __init__(
        self, file: Path, watch: Progress, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file, self._watch, self._clock = file, watch, clock
        self._told, self._at = (0.0, "starting"), -_AGAIN_S

    def __call__(self) -> None:
        try:
            found = json.loads(self._file.read_text())
            said = float(found["share"]), str(found["message"])
        except (FileNotFoundError, ValueError):
            said = self._told
        if said != self._told or self._clock() - self._at >= _AGAIN_S:
            self._told, self._at = said, self._clock()
            self._watch(*said)


def read_mended(folder: Path) -> tuple[str, ...]:
    """What a worker has found damaged and mended, in sentences."""
    path = folder / MENDED_FILE
    return tuple(json.loads(path.read_text())) if path.exists() else ()


def read_reply(job: Job[D], folder: Path, code: int) -> D | Failed:
    """What a worker left, or what its exit code tells of one that left nothing.

    Args:
        code: of the process; -n where signal n ended it.
    """
    path = folder / RESULT_FILE
    if path.exists():
        # Fields that are not known are refused, so that it is one of the two, and never both.
        either: Any = job.answer | Failed
        reply: D | Failed = TypeAdapter(either).validate_json(path.read_bytes())
        return reply
    kind = FailureKind.METHOD_ERROR
    if code == -signal.SIGKILL:
        kind = FailureKind.OUT_OF_MEMORY
        message = "the process was killed from outside, most likely by the system for its memory"
    elif code < 0:
        message = f"the process crashed ({signal.Signals(-code).name}); see worker.log"
    else:
        message = f"the process ended with code {code} and left no result; see worker.log"
    return Failed(failure=Failure(kind=kind, message=message, stage=job.kind))
