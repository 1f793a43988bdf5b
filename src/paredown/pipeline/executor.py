"""Runs jobs in worker processes under a time limit and a memory watch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import psutil
from pydantic import TypeAdapter

from paredown.pipeline.messages import D, Ended, Failed, Job
from paredown.spec.progress import Progress
from paredown.spec.result import Failure, FailureKind
from paredown.spec.units import GB, human_bytes, human_seconds
from paredown.store.atomic import write_json

_POLL_S = 0.1


class LocalExecutor:
    """Worker processes on this machine, forked from one that has torch imported."""

    def __init__(self, *, memory_bytes: float | None = None) -> None:
        """`memory_bytes` limits each worker; None: nine tenths of what is free at its start."""
        self.memory_bytes = memory_bytes
        self._server: subprocess.Popen[bytes] | None = None
        self._ready = False

    def __enter__(self) -> LocalExecutor:
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
        """Begin importing torch in the background."""
        if self._server is not None and self._server.poll() is None:
            return
        self._server = subprocess.Popen(
            [sys.executable, "-m", "paredown.pipeline.worker", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
        self._ready = False

    def close(self) -> None:
        """End the worker processes."""
        if self._server is not None:
            if self._server.stdin is not None:
                self._server.stdin.close()
            if not self._ready:
                self._server.kill()  # still importing: it would not notice for seconds
            try:
                self._server.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            if self._server.stdout is not None:
                self._server.stdout.close()
            self._server = None

    def run(
        self, job: Job[D], folder: Path, *, timeout_s: float, watch: Progress | None = None
    ) -> Ended[D]:
        """Run one job in `folder`; whatever happens to the process becomes a reply.

        Args:
            timeout_s: the process is killed after this many seconds.
            watch: called with the share done and a message while the job runs.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("result.json", "progress.json"):
            (folder / name).unlink(missing_ok=True)
        write_json(folder / "job.json", job)
        self.start()
        start = time.monotonic()
        pid = self._begin(folder)
        reason, code = self._wait(pid, folder, start + timeout_s, watch)
        if reason is not None:
            return Ended(Failed(failure=reason.model_copy(update={"stage": job.kind})))
        return Ended(_read_reply(job, folder, code))

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        server = self._server
        if server is None or server.stdin is None or server.stdout is None:
            raise AssertionError("start() comes first")
        return server.stdin, server.stdout

    def _begin(self, folder: Path) -> int:
        """Hand the job over and return the worker's process id."""
        stdin, stdout = self._pipes()
        if not self._ready:
            if not stdout.readline():
                raise RuntimeError(
                    "the worker process did not start; see why with: "
                    f"{sys.executable} -m paredown.pipeline.worker --serve"
                )
            self._ready = True
        stdin.write(f"{folder.resolve()}\n".encode())
        stdin.flush()
        return int(json.loads(stdout.readline())["pid"])

    def _wait(
        self, pid: int, folder: Path, deadline: float, watch: Progress | None
    ) -> tuple[Failure | None, int]:
        """Poll until the worker ends; kill it at a limit. Returns the reason, and the exit code."""
        import select

        _, stdout = self._pipes()
        limit = self.memory_bytes or 0.9 * psutil.virtual_memory().available
        allowed = human_seconds(deadline - time.monotonic())
        reason: Failure | None = None
        try:
            while True:
                ready, _, _ = select.select([stdout], [], [], _POLL_S)
                if ready:
                    line = stdout.readline()
                    if line:
                        return reason, int(json.loads(line)["exit"])
                    self._server = None  # the server is gone, and with it the job
                    return reason, -signal.SIGKILL
                if reason is None:
                    reason = _over_limit(pid, limit, deadline, allowed)
                    if reason is not None:
                        _kill(pid)
                if watch is not None:
                    _report(folder, watch)
        except BaseException:  # Ctrl-C included: never leave a worker behind
            _kill(pid)
            self.close()
            raise


def _environment() -> dict[str, str]:
    """The user's environment, with threads that sleep while they wait.

    Spinning threads are a little faster on an idle machine and several times slower on a busy one.
    """
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "TOKENIZERS_PARALLELISM": "false"}


def _over_limit(pid: int, limit: float, deadline: float, allowed: str) -> Failure | None:
    if time.monotonic() > deadline:
        return Failure(kind=FailureKind.TIMEOUT, message=f"stopped after {allowed}")
    used = _memory(pid)
    if used > limit:
        return Failure(
            kind=FailureKind.OUT_OF_MEMORY,
            message=f"stopped at {human_bytes(used)}: the limit is {human_bytes(limit)}",
        )
    return None


def _memory(pid: int) -> int:
    """Resident memory of a process and its children, bytes; 0 once it is gone."""
    try:
        process = psutil.Process(pid)
        return sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))
    except psutil.Error:
        return 0


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _report(folder: Path, watch: Progress) -> None:
    try:
        found = json.loads((folder / "progress.json").read_text())
    except (FileNotFoundError, ValueError):
        return
    watch(found["share"], found["message"])


def _read_reply(job: Job[D], folder: Path, code: int) -> D | Failed:
    """What the worker left, or what its exit code tells of a worker that left nothing."""
    path = folder / "result.json"
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


def memory_limit(gigabytes: float | None) -> float | None:
    """A limit in bytes from the user's gigabytes."""
    return None if gigabytes is None else gigabytes * GB
