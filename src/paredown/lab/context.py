"""What the stages share: the request, the folder, the model, and whom to tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from paredown.coordinate.state import Listener
from paredown.hardware.detect import Machine
from paredown.lab.checkpoints import Stage
from paredown.pipeline.bench import Base
from paredown.spec.lab import LabConfig
from paredown.spec.progress import StageProgress
from paredown.spec.run import RunConfig


class Teller:
    """Told how a lab goes; this one tells nobody."""

    def begin(self, stage: Stage, why: str) -> None:
        """A stage begins, and why it has to."""

    def keep(self, stage: Stage) -> None:
        """A stage stands as it is: nothing that it depends on has changed."""

    @contextmanager
    def experiment(self, config: RunConfig) -> Iterator[Listener]:
        """A listener for an experiment, as `run_experiment` takes it."""
        yield lambda event, fields: None

    @contextmanager
    def job(self) -> Iterator[StageProgress]:
        """Progress of anything else that takes long."""
        yield lambda stage, share, message: None


@dataclass(frozen=True, kw_only=True)
class Lab:
    """One lab.

    Attributes:
        config: the request.
        folder: where everything of it is.
        base: the model, its weights hashed.
        machine: this one.
    """

    config: LabConfig
    folder: Path
    base: Base
    machine: Machine
    teller: Teller

    @property
    def experiments(self) -> Path:
        """Folder of the experiments in which base and strategies are measured."""
        return self.folder / "experiments"


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
