"""What an executor is: it takes jobs and gives back futures."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from paredown.hardware.detect import Machine
from paredown.pipeline.messages import D, Ended, Job
from paredown.spec.model import ModelSpec
from paredown.spec.progress import Progress
from paredown.spec.run import RunConfig
from paredown.spec.target import Device


@dataclass(frozen=True, kw_only=True)
class Place:
    """A machine on which time is measured, where that is not this one.

    Attributes:
        torch_has_cuda: whether its torch can use a GPU.
        no_energy: why no energy can be measured there; empty where it can.
    """

    machine: Machine
    torch_has_cuda: bool
    no_energy: str


class Executor(Protocol):
    """Runs every job in a process of its own, wherever that is.

    Whatever happens to a job's process (a crash, a limit, the system out of memory) is a `Failed`
    in the reply. An exception in the future is a bug of paredown or of `watch`, or says that the
    job was stopped by `close`.

    Several jobs may be under way; but what is `timed` runs while nothing else does on its machine.
    """

    @property
    def place(self) -> Place | None:
        """Where time is measured; None: here."""

    @property
    def where(self) -> dict[str, Any]:
        """Which machines there are, for the log of a run; empty where it is this one."""

    def start(self) -> None:
        """Begin what takes long at the first job."""

    def require(self, model: Path, spec: ModelSpec, config: RunConfig, device: Device) -> None:
        """See that every stage of a trial can be done.

        Args:
            model: folder of the base.

        Raises:
            ConfigError: no machine has what a stage asks for, or a file is not seen there.
        """

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

    def goes_on(self, folder: Path) -> bool:
        """Whether jobs that an earlier session had begun in `folder` are still under way or done:
        asked for again, they are answered by what they have come to."""

    def close(self) -> None:
        """End every job that is under way, as soon as that can be done."""
