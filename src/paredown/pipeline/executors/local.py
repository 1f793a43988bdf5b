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

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, final

import psutil

from paredown.hardware.detect import detect
from paredown.methods import registered, registry
from paredown.pipeline.executors.machine import machine_taken
from paredown.pipeline.executors.turns import Turns
from paredown.pipeline.executors.watch import (
    PROCESSES,
    Limits,
    ended,
    exit_code,
    read_mended,
    read_reply,
    wait_for,
)
from paredown.pipeline.executors.worker import (
    JOB_FILE,
    MENDED_FILE,
    PARENT,
    PROGRESS_FILE,
    RESULT_FILE,
    Surroundings,
    run_worker,
)
from paredown.pipeline.messages import D, Ended, Failed, Job
from paredown.runtimes.room import WORKER_BYTES, WORKER_THREADS
from paredown.spec.model import ModelSpec
from paredown.spec.progress import Progress
from paredown.spec.result import Failure, FailureKind
from paredown.spec.run import RunConfig
from paredown.spec.target import Device
from paredown.spec.units import GB, human_seconds
from paredown.store.atomic import write_json

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

StartMethod = Literal["forkserver", "spawn"]
PRELOAD = "paredown.pipeline.executors.preload"
_STARTS = 3
"""So often a fork server may be lost before it is ready."""


@dataclass(eq=False)
class _Running:
    """A job from its submission to its end.

    Attributes:
        stopped: it is to end, or not to begin.
        ended: its process is gone.
        process: None until it has begun.
    """

    stopped: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
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
        threads: int | None = None,
        surroundings: Callable[[Path], Surroundings] | None = None,
        start_method: StartMethod | None = None,
    ) -> None:
        """An executor of `workers` jobs at once, which share the free memory and the processors.

        Args:
            threads: of each worker that is not timed; None: its part of the processors.
            surroundings: what a worker in a folder takes over; None: those of this process.
            start_method: None: by fork where there is fork.
        """
        self.memory_bytes, self.workers = memory_bytes, workers
        self._threads = threads if threads is not None or workers == 1 else _part_of(workers)
        self._surroundings = surroundings or _surroundings
        has_fork = "forkserver" in multiprocessing.get_all_start_methods()
        self._forks = has_fork if start_method is None else start_method == "forkserver"
        self._context: ForkServerContext | SpawnContext = (
            multiprocessing.get_context("forkserver")
            if self._forks
            else multiprocessing.get_context("spawn")
        )
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

    @property
    def place(self) -> None:
        """Here."""
        return None

    @property
    def where(self) -> dict[str, Any]:
        """Here."""
        return {}

    def require(self, model: Path, spec: ModelSpec, config: RunConfig, device: Device) -> None:
        """Nothing: what is here was checked by whoever asked for the experiment."""

    def start(self) -> None:
        """Begin importing torch in the background, unless that was done in this process."""
        if self._forks:
            self._context.set_forkserver_preload([PRELOAD])
            _keeper(os.getpid()).submit(_ensure_server).result()

    def ready(self) -> None:
        """Return once a worker would begin at once: torch is imported where they come from."""
        process = self._fresh(_nothing, ())
        if process is not None:  # else the first job says what is wrong
            process.join()

    def close(self) -> None:
        """End every job that is under way; none leaves a process behind."""
        with self._guard:
            running = tuple(self._running)
        for job in running:
            job.stopped.set()
        self._turns.wake()
        for job in running:
            # One that waits for the fork server to get ready ends when it is: that is not awaited,
            # nor one whose listener calls this in the thread that would end it.
            if job.process is not None and job.thread is not threading.current_thread():
                job.ended.wait()

    def goes_on(self, folder: Path) -> bool:
        """Never: its workers end with their session."""
        return False

    def submit(
        self, job: Job[D], folder: Path, *, timeout_s: float, watch: Progress | None = None
    ) -> Future[Ended[D]]:
        """Have a job done in a process of its own; see `Executor`."""
        future: Future[Ended[D]] = Future()
        # From here on `cancel` does nothing: a job is stopped by `close`, which ends its process.
        future.set_running_or_notify_cancel()
        running = _Running()

        def carry_out() -> None:
            try:
                stopped = running.stopped.is_set
                with (
                    self._listed(running),
                    self._turns.taken(alone=job.timed, is_stopped=stopped) as waited,
                    machine_taken(alone=job.timed, is_stopped=stopped) as waited_for_others,
                ):
                    reply = self._run(job, folder.resolve(), running, timeout_s, watch)
            except BaseException as error:  # noqa: BLE001  it is raised where the future is read
                future.set_exception(error)
            else:
                future.set_result(Ended(reply, waited + waited_for_others, read_mended(folder)))

        running.thread = threading.Thread(target=carry_out, name=f"job in {folder}", daemon=True)
        with self._guard:
            self._running.add(running)
        running.thread.start()
        return future

    @contextmanager
    def _listed(self, running: _Running) -> Iterator[None]:
        try:
            yield
        finally:
            with self._guard:
                self._running.discard(running)
            running.ended.set()

    def _run(
        self,
        job: Job[D],
        folder: Path,
        running: _Running,
        timeout_s: float,
        watch: Progress | None,
    ) -> D | Failed:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (RESULT_FILE, PROGRESS_FILE, MENDED_FILE):  # of an earlier job in this folder
            (folder / name).unlink(missing_ok=True)
        write_json(folder / JOB_FILE, job)
        deadline = time.monotonic() + timeout_s
        process = self._begin(folder, timed=job.timed)
        if process is None:
            return Failed(failure=_no_server(job.kind), config_error=True)
        running.process = process
        limits = Limits(self._memory_limit(), deadline, human_seconds(timeout_s))
        with ended(process):
            reason = wait_for(process, folder, limits, running.stopped.is_set, watch)
        if running.stopped.is_set():
            raise CancelledError
        if reason is not None:
            return Failed(failure=reason.model_copy(update={"stage": job.kind}))
        return read_reply(job, folder, exit_code(process))

    def _begin(self, folder: Path, *, timed: bool) -> BaseProcess | None:
        """A worker that has begun; None where the fork server was lost each time."""
        given = self._surroundings(folder)  # while the main module is there
        if self.memory_bytes is not None:
            given.environment[WORKER_BYTES] = str(self.memory_bytes)
        if self._threads is not None and not timed:
            given.environment[WORKER_THREADS] = str(self._threads)
        return self._fresh(run_worker, (given,), name=f"paredown {folder.name}")

    def _fresh(
        self, target: Callable[..., None], given: tuple[Any, ...], *, name: str | None = None
    ) -> BaseProcess | None:
        """A process from the fork server, once that is ready; None where it was lost each time."""
        for _ in range(_STARTS):
            self.start()
            try:
                with PROCESSES, _MainHidden() as hidden:
                    process = self._context.Process(
                        target=_run_hidden, args=(target, given, hidden), name=name
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

    with PROCESSES:
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


def _surroundings(folder: Path) -> Surroundings:
    """Those of this process."""
    own = registry.registered()
    methods = registered.packed(own) if own else b""
    return Surroundings(folder, Path.cwd(), dict(os.environ), methods)


def _part_of(workers: int) -> int | None:
    """Threads for each of so many workers; None where the user has said how many there are."""
    if os.environ.get("OMP_NUM_THREADS"):
        return None
    return max(detect().logical_cores // workers, 1)


def _run_hidden(target: Callable[..., None], given: tuple[Any, ...], _: _MainHidden) -> None:
    target(*given)


def _nothing() -> None:
    pass


def _no_server(stage: str) -> Failure:
    message = (
        f"the process that starts workers was lost {_STARTS} times before it was ready, for want "
        f"of memory or by a damaged library; see why with: {sys.executable} -c 'import {PRELOAD}'"
    )
    return Failure(kind=FailureKind.OUT_OF_MEMORY, message=message, stage=stage)


def memory_limit(gigabytes: float | None) -> float | None:
    """A limit in bytes from the user's gigabytes."""
    return None if gigabytes is None else gigabytes * GB
