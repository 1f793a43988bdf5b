"""What an executor is: it takes jobs and gives back futures."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from paredown.pipeline.messages import D, Ended, Job
from paredown.spec.progress import Progress


class Executor(Protocol):
    """Runs every job in a process of its own, wherever that is.

    Whatever happens to a job's process (a crash, a limit, the system out of memory) is a `Failed`
    in the reply. An exception in the future is a bug of paredown or of `watch`, or says that the
    job was stopped by `close`.

    Several jobs may be under way; but what is `timed` runs while nothing else does on its machine.
    """

    def start(self) -> None:
        """Begin what takes long at the first job; returns at once."""

    def submit(
        self, job: Job[D], folder: Path, *, timeout_s: float, watch: Progress | None = None
    ) -> Future[Ended[D]]:
        """Have a job done.

        Args:
            job: what to do.
            folder: where it leaves its log and files; no two jobs share one at a time.
            timeout_s: once it has begun, the job is ended after this many seconds.
            watch: called from another thread, with the share done and a message.
        """

    def close(self) -> None:
        """End every job that is under way, as soon as that can be done."""
