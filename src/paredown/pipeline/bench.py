"""What trials are run on, and how their jobs are run under one deadline."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from paredown.pipeline.executors.base import Executor
from paredown.pipeline.messages import EXPECTED, D, Failed, HeldOut, Job, TextSpec
from paredown.spec.model import ModelSpec
from paredown.spec.progress import StageProgress
from paredown.spec.result import Failure, FailureKind
from paredown.spec.run import CalibrationConfig, EvaluateConfig
from paredown.spec.target import Device


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that trials start from."""

    name: str
    folder: Path
    hash: str
    spec: ModelSpec


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Everything a trial needs besides its strategy."""

    base: Base
    text: TextSpec
    calibration: CalibrationConfig
    evaluate: EvaluateConfig
    device: Device
    seed: int
    executor: Executor
    runtime: str = "torch"
    """Engine in which everything is measured."""
    trust_remote_code: bool = False

    @property
    def held_out(self) -> HeldOut:
        """What artifacts are compared with, and on which text."""
        return HeldOut(base=self.base.folder, text=self.text, config=self.evaluate)


class TrialFailed(Exception):
    """Ends a trial early; becomes its record, never leaves this package."""

    def __init__(self, failure: Failure, *, config_error: bool) -> None:
        super().__init__(failure.message)
        self.failure, self.config_error = failure, config_error


class Clock:
    """Runs jobs of one trial under one common deadline.

    The time that a job stands in line for the machine is the trial's neither to use nor to pay for.
    """

    def __init__(
        self, bench: Bench, folder: Path, timeout_s: float, watch: StageProgress | None
    ) -> None:
        self.bench, self.folder, self.watch = bench, folder, watch
        self.start = time.monotonic()
        self.deadline = self.start + timeout_s
        self._waited_s = 0.0
        self.notes: tuple[str, ...] = ()
        self.machine: str | None = None
        """Id of the machine on which time was measured; None: none was, or on this one."""

    @property
    def elapsed(self) -> float:
        """Seconds since the start, without those spent in line."""
        return time.monotonic() - self.start - self._waited_s

    def run(self, job: Job[D]) -> D:
        """The job's answer.

        Raises:
            TrialFailed: there is none, or no time was left for the job.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            failure = Failure(kind=FailureKind.TIMEOUT, message="no time left", stage=job.kind)
            raise TrialFailed(failure, config_error=False)

        def watch(share: float, message: str) -> None:
            if self.watch is not None:
                self.watch(job.kind, share, message)

        watch(0.0, "starting")  # until there is a process that says more
        try:
            future = self.bench.executor.submit(job, self.folder, timeout_s=left, watch=watch)
            ended = future.result()
        except BaseException:  # Ctrl-C included: never leave a worker behind
            self.bench.executor.close()
            raise
        self.deadline += ended.waited_s
        self._waited_s += ended.waited_s
        self.notes += ended.notes
        if job.timed:
            self.machine = ended.machine
        if isinstance(ended.reply, Failed):
            raise TrialFailed(ended.reply.failure, config_error=ended.reply.config_error)
        return ended.reply


def tidy(folder: Path) -> None:
    """Remove what only the jobs needed; the log stays."""
    for name in (
        "job.json",
        "progress.json",
        "progress.tmp",
        "result.json",
        "mended.json",
        "attempts.json",
        EXPECTED,
    ):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "steps", ignore_errors=True)


def discard(artifact: Path) -> None:
    """Delete an artifact and whatever a killed worker left of it."""
    for left in (artifact, *artifact.parent.glob(f".{artifact.name}.partial-*")):
        shutil.rmtree(left, ignore_errors=True)
