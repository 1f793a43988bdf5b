"""Jobs in worker processes on this machine, under a time limit and a memory watch.

Workers come from the standard library's fork server, which has torch imported (`preload`): a job
begins within milliseconds, with nothing but the imports. Where there is no fork, every worker
imports torch anew. The fork server is one for the whole Python process and ends with it, so that a
second experiment in the same process starts at once.

Three things the standard library does not give, and what stands in for them:

- It has every worker run the user's main module again, which a script without
  `if __name__ == "__main__"` does not survive: see `_MainHidden`.
- A fork server that is killed before it is ready ends the `start` that waits for it with an
  exception: it is begun again, and reported as a failure only when that happens every time.
- Reading an exit code is not safe from two threads: a lock is held while it is done.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Literal, Self, final

import psutil
from pydantic import TypeAdapter

from paredown.pipeline.executors.turns import Turns
from paredown.pipeline.executors.worker import (
    JOB_FILE,
    PARENT,
    PROGRESS_FILE,
    RESULT_FILE,
    Surroundings,
    run_worker,
)
from paredown.pipeline.messages import D, Ended, Failed, Job
from paredown.spec.progress import Progress
from paredown.spec.result import Failure, FailureKind
from paredown.spec.units import GB, human_bytes, human_seconds
from paredown.store.atomic import write_json

StartMethod = Literal["forkserver", "spawn"]
PRELOAD = "paredown.pipeline.executors.preload"
_POLL_S = 0.1
_STARTS = 3
"""So often a fork server may be lost before it is ready."""
_LOST = 255
"""Exit code that multiprocessing gives to a worker that ended with its fork server."""
_PROCESSES = threading.Lock()
"""Held while a process is started or its exit code is read. Of the module: what multiprocessing
does at both goes over all children of this Python process."""


@dataclass(eq=False)
class _Running:
    """A job from its submission to its end.

    Attributes:
        stopped: it is to end, or not to begin.
        process: None until it has begun.
    """

    stopped: threading.Event = field(default_factory=threading.Event)
    process: BaseProcess | None = None
    thread: threading.Thread | None = None


@final
class LocalExecutor:
    """Runs jobs in processes of this machine; may be used again after `close`.

    Attributes:
        memory_bytes: limit of each worker; None: nine tenths of what is free at its start, or of
            its part of it where several work.
    """

    def __init__(
        self,
        *,
        memory_bytes: float | None = None,
        workers: int = 1,
        start_method: StartMethod | None = None,
    ) -> None:
        """An executor of `workers` jobs at once, which share the free memory.

        Args:
            start_method: None: by fork where there is fork.
        """
        self.memory_bytes, self.workers = memory_bytes, workers
        has_fork = "forkserver" in multiprocessing.get_all_start_methods()
        self._method = start_method or ("forkserver" if has_fork else "spawn")
        self._context = multiprocessing.get_context(self._method)
        self._turns = Turns()
        self._running: set[_Running] = set()
        self._guard = threading.Lock()  # of `_running`

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin importing torch in the background, unless that was done in this process."""
        if self._method == "forkserver":
            self._context.set_forkserver_preload([PRELOAD])
            _keeper(os.getpid()).submit(_ensure_server).result()

    def close(self) -> None:
        """End every job that is under way; none leaves a process behind."""
        with self._guard:
            running = tuple(self._running)
        for job in running:
            job.stopped.set()
        self._turns.wake()
        for job in running:
            # One that waits for the fork server to get ready ends when it is: that is not awaited.
            if job.process is not None and job.thread is not threading.current_thread():
                job.thread.join() if job.thread is not None else None

    def submit(
        self, job: Job[D], folder: Path, *, timeout_s: float, watch: Progress | None = None
    ) -> Future[Ended[D]]:
        """Have a job done in a process of its own; see `Executor`."""
        future: Future[Ended[D]] = Future()
        future.set_running_or_notify_cancel()
        running = _Running()

        def carry_out() -> None:
            try:
                with self._turns.taken(
                    alone=job.timed, is_stopped=running.stopped.is_set
                ) as waited:
                    reply = self._run(job, folder.resolve(), running, timeout_s, watch)
                future.set_result(Ended(reply, waited))
            except BaseException as error:  # noqa: BLE001  it is raised where the future is read
                future.set_exception(error)
            finally:
                with self._guard:
                    self._running.discard(running)

        running.thread = threading.Thread(target=carry_out, name=f"job in {folder}", daemon=True)
        with self._guard:
            self._running.add(running)
        running.thread.start()
        return future

    def _run(
        self,
        job: Job[D],
        folder: Path,
        running: _Running,
        timeout_s: float,
        watch: Progress | None,
    ) -> D | Failed:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (RESULT_FILE, PROGRESS_FILE):  # of an earlier job in this folder
            (folder / name).unlink(missing_ok=True)
        write_json(folder / JOB_FILE, job)
        deadline = time.monotonic() + timeout_s
        process = self._begin(folder)
        if process is None:
            return Failed(failure=_no_server(job.kind), config_error=True)
        running.process = process
        limits = _Limits(self._memory_limit(), deadline, human_seconds(timeout_s))
        with _ended(process):
            reason = _watch(process, folder, limits, running, watch)
        if running.stopped.is_set():
            raise CancelledError
        if reason is not None:
            return Failed(failure=reason.model_copy(update={"stage": job.kind}))
        return read_reply(job, folder, _exit_code(process))

    def _begin(self, folder: Path) -> BaseProcess | None:
        """A worker that has begun; None where the fork server was lost each time.

        Blocks until the fork server is ready.
        """
        for _ in range(_STARTS):
            self.start()
            given = Surroundings(folder, Path.cwd(), dict(os.environ))
            try:
                with _PROCESSES, _MainHidden() as hidden:
                    process = self._context.Process(
                        target=_run_hidden, args=(given, hidden), name=f"paredown {folder.name}"
                    )
                    process.start()
            except (EOFError, ConnectionError):
                continue  # it was killed, as when the system is out of memory
            return process
        return None

    def _memory_limit(self) -> float:
        """Bytes for a worker that begins now, with those that have not begun left their part."""
        if self.memory_bytes is not None:
            return self.memory_bytes
        with self._guard:
            begun = sum(job.process is not None for job in self._running)
        left = max(self.workers - begun + 1, 1)  # this one is among the begun
        return 0.9 * psutil.virtual_memory().available / left


@cache
def _keeper(pid: int) -> ThreadPoolExecutor:
    """The one thread that starts fork servers in process `pid`, and lives as long as that.

    Linux kills the server when the thread that started it ends. That is the one way to have it go
    with a killed process at once: by itself it goes when the last of its *workers* has gone, too.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="paredown fork server")


def _ensure_server() -> None:
    from multiprocessing import forkserver  # not there where there is no fork

    with _PROCESSES:
        os.environ[PARENT] = f"{os.getpid()}"
        try:
            forkserver.ensure_running()
        finally:
            del os.environ[PARENT]


class _MainHidden:
    """Hides the user's main module while multiprocessing looks which one a child has to run.

    It looks first and pickles the arguments next, of which this is one: being pickled, it brings
    the main module back, before the wait for a fork server that still imports.
    """

    def __enter__(self) -> Self:
        self._main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # of no file, under no name
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.modules["__main__"] = self._main

    def __reduce__(self) -> tuple[type[_MainHidden], tuple[()]]:
        sys.modules["__main__"] = self._main
        return _MainHidden, ()


def _run_hidden(given: Surroundings, _: _MainHidden) -> None:
    run_worker(given)


@dataclass(frozen=True)
class _Limits:
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


def _watch(
    process: BaseProcess,
    folder: Path,
    limits: _Limits,
    running: _Running,
    watch: Progress | None,
) -> Failure | None:
    """Wait until the worker ends, must end for a limit (the reason is returned), or is stopped."""
    pid = _pid(process)
    while not connection.wait([process.sentinel], _POLL_S):
        if running.stopped.is_set():
            return None
        reason = limits.broken_by(pid)
        if reason is not None:
            return reason
        if watch is not None:
            _report(folder, watch)
    return None


@contextmanager
def _ended(process: BaseProcess) -> Iterator[None]:
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


def _exit_code(process: BaseProcess) -> int:
    with _PROCESSES:
        process.join()
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


def _report(folder: Path, watch: Progress) -> None:
    try:
        found = json.loads((folder / PROGRESS_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return
    watch(found["share"], found["message"])


def read_reply(job: Job[D], folder: Path, code: int) -> D | Failed:
    """What a worker left, or what its exit code tells of one that left nothing.

    Args:
        code: of the process; -n where signal n ended it.
    """
    path = folder / RESULT_FILE
    if path.exists():
        reply: TypeAdapter[D | Failed] = TypeAdapter(job.answer | Failed)
        return reply.validate_json(path.read_bytes())
    kind = FailureKind.METHOD_ERROR
    if code == -signal.SIGKILL:
        kind = FailureKind.OUT_OF_MEMORY
        message = "the process was killed from outside, most likely by the system for its memory"
    elif code < 0:
        message = f"the process crashed ({signal.Signals(-code).name}); see worker.log"
    else:
        message = f"the process ended with code {code} and left no result; see worker.log"
    return Failed(failure=Failure(kind=kind, message=message, stage=job.kind))


def _no_server(stage: str) -> Failure:
    message = (
        f"the process that starts workers was lost {_STARTS} times before it was ready, for want "
        f"of memory or by a damaged library; see why with: {sys.executable} -c 'import {PRELOAD}'"
    )
    return Failure(kind=FailureKind.OUT_OF_MEMORY, message=message, stage=stage)


def memory_limit(gigabytes: float | None) -> float | None:
    """A limit in bytes from the user's gigabytes."""
    return None if gigabytes is None else gigabytes * GB
