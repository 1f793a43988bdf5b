"""What a worker process is asked to do, and what it answers. No torch here.

Every request names its answer, so that whoever hands a job to an executor gets back a typed record:
`CompressJob` is answered by `CompressDone`, and so on, or any of them by `Failed`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from paredown.deploy.proof import Golden, Pair, Tokens
from paredown.spec.plan import PlanRecord
from paredown.spec.result import Failure, Measurement
from paredown.spec.run import EvaluateConfig
from paredown.spec.scores import TaskScore
from paredown.spec.speed import SpeedPoint
from paredown.spec.strategy import Strategy
from paredown.spec.target import Device, Stream

EXPECTED = "expected.safetensors"
"""File in a job's folder: the logits that the compressed model must reload to."""
ITEMS = "items"
"""Folder of single answers to benchmarks, beside the results."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class CompressDone(_Record):
    """The artifact is in its place."""

    predicted_bytes: int
    """Bytes of tensors that the last step foretold."""
    stored_bytes: int
    """Bytes of tensors that the artifact holds."""
    reused_steps: int = Field(ge=0)
    """First steps whose result was there from an earlier trial."""
    reused_s: float = Field(0.0, ge=0)
    """Seconds that they had taken there."""


class VerifyDone(_Record):
    """The artifact reloads to the model that was meant."""

    notes: tuple[str, ...]
    """What its loader says that a user should know."""
    kernel_error: float
    """Largest relative error of its packed kernels."""
    kl_paredown: float
    """Mean KL from what was meant, nats per token, reloaded through paredown."""
    kl_transformers: float | None = None
    """The same through plain transformers; None where it was not asked to load it."""
    kl_engine: float | None = None
    """The same in the engine of the run; None where that reads the artifact's own files."""
    kl_arithmetic: float | None = None
    """Mean KL of the uncompressed model in that engine from itself in torch: what the engine's own
    arithmetic does."""


class EvaluateDone(_Record):
    """Everything that was measured but for benchmarks."""

    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...]
    speed: tuple[SpeedPoint, ...]


class ScoreDone(_Record):
    """Benchmarks, as measurements and in full."""

    measurements: tuple[Measurement, ...]
    scores: tuple[TaskScore, ...]


class DeployDone(_Record):
    """The engine's files are written, and they are the artifact."""

    nbytes: int
    """Of the package's weights files."""
    base_nbytes: int
    """Of the base's in the same engine."""
    golden: tuple[Golden, ...]
    tokens: tuple[Tokens, ...]
    vocabulary: int
    """Tokens that the artifact and its package know."""
    exactness: tuple[Measurement, ...]
    """Against the artifact computed by torch."""
    quality: tuple[Measurement, ...]
    """Against the base in the same engine."""
    energy: tuple[Pair, ...] = ()
    """Per token, beside the base in the same engine."""
    notes: tuple[str, ...]


class PlansDone(_Record):
    """Plans along the curve of a model, none of them built yet."""

    plans: tuple[PlanRecord, ...]
    """Chosen, smallest first, each with its forecast."""
    uniform: tuple[PlanRecord, ...]
    """All layers alike, for comparison, smallest first."""


class Answered(_Record):
    """What a model says to a message."""

    text: str
    tokens: int = Field(ge=0)
    """Of the text, by the model's own tokenizer, without the end token."""
    seconds: float = Field(ge=0)
    """From the message to the end of the text."""


class AnswerDone(_Record):
    """Every message, answered in the order in which it was asked."""

    answers: tuple[Answered, ...]
    is_chat: bool
    """Whether messages were put into the model's chat template."""


class Failed(_Record):
    """The job came to nothing."""

    failure: Failure
    config_error: bool = False
    """The request is at fault, not the strategy."""


D = TypeVar(
    "D", CompressDone, VerifyDone, EvaluateDone, ScoreDone, DeployDone, PlansDone, AnswerDone
)


class Job(_Record, ABC, Generic[D]):
    """One piece of work for a process of its own."""

    timed: ClassVar[bool] = False
    """Whether it measures time: nothing else of the run may work on the machine meanwhile."""

    kind: str
    """Also the name of the stage, in failures and displays."""
    device: Device
    runtime: str = "torch"
    """Engine in which the model is measured."""
    trust_remote_code: bool = False

    @property
    @abstractmethod
    def answer(self) -> type[D]:
        """The record that it is answered with when it succeeds."""


class TextSpec(_Record):
    """What text is used, for both parts."""

    evaluation: str
    calibration: str | None
    data_dir: Path | None


class HeldOut(_Record):
    """The base model, and the text on which artifacts are compared with it."""

    base: Path
    text: TextSpec
    config: EvaluateConfig


class CalibratedJob(Job[D]):
    """What a job needs that calibrates on text."""

    model: Path
    model_name: str
    model_hash: str
    text: TextSpec
    samples: int
    least_samples: int | None = None
    """With so many windows a text that has fewer than `samples` will do; None: it will not."""
    length: int
    seed: int


class CompressJob(CalibratedJob[CompressDone]):
    """Run a strategy's steps on `model` and leave the artifact in `out`."""

    kind: Literal["compress"] = "compress"
    strategy: Strategy
    out: Path

    @property
    def answer(self) -> type[CompressDone]:
        return CompressDone


class PlansJob(CalibratedJob[PlansDone]):
    """Find plans along the curve of what `runtime` holds of `model`."""

    kind: Literal["plans"] = "plans"
    points: int = Field(ge=2)

    @property
    def answer(self) -> type[PlansDone]:
        return PlansDone


class VerifyJob(Job[VerifyDone]):
    """Reload `artifact` through every loader it claims and compare logits."""

    kind: Literal["verify"] = "verify"
    artifact: Path
    base: Path | None = None
    """The uncompressed model, for what an engine's own arithmetic does; None: it is not asked."""
    expected: Path | None
    plain: bool
    """Whether plain transformers must load it too."""
    stream: Stream = "never"
    """Whether it may be walked through block by block in place of being loaded."""
    held_out: HeldOut | None = None
    """What it is screened on; None: it is measured whatever it is worth."""
    worst: float = 0.0
    """Multiple of the base's perplexity beyond which it is screened out."""

    @property
    def answer(self) -> type[VerifyDone]:
        return VerifyDone


class EvaluateJob(Job[EvaluateDone]):
    """Measure `model` against the base: everything but benchmarks."""

    timed: ClassVar[bool] = True

    kind: Literal["evaluate"] = "evaluate"
    model: Path
    base_bytes: int
    held_out: HeldOut

    @property
    def answer(self) -> type[EvaluateDone]:
        return EvaluateDone


class JudgeJob(Job[EvaluateDone]):
    """Measure the size of `model` and its quality on held-out text; nothing that takes the machine
    for itself."""

    kind: Literal["judge"] = "judge"
    model: Path
    base_bytes: int
    held_out: HeldOut

    @property
    def answer(self) -> type[EvaluateDone]:
        return EvaluateDone


class ScoreJob(Job[ScoreDone]):
    """Score `model` on benchmarks, and compare it with `base` item by item."""

    kind: Literal["score"] = "score"
    model: Path
    base: Path
    data_dir: Path | None
    config: EvaluateConfig

    @property
    def answer(self) -> type[ScoreDone]:
        return ScoreDone


class DeployJob(Job[DeployDone]):
    """Write the files of an engine for `artifact` and its base, and compare all three."""

    kind: Literal["deploy"] = "deploy"
    artifact: Path
    out: Path
    base_out: Path
    largest_kl: float
    """From the artifact, nats per token, that the engine's arithmetic may cause."""
    held_out: HeldOut
    config: EvaluateConfig

    @property
    def answer(self) -> type[DeployDone]:
        return DeployDone


class AnswerJob(Job[AnswerDone]):
    """Ask `model` what a user would ask it, one message at a time, and take the time."""

    timed: ClassVar[bool] = True

    kind: Literal["answer"] = "answer"
    model: Path
    messages: tuple[str, ...]
    max_tokens: int = Field(ge=1)
    """Of each answer."""

    @property
    def answer(self) -> type[AnswerDone]:
        return AnswerDone


AnyJob = (
    CompressJob | VerifyJob | EvaluateJob | ScoreJob | DeployJob | PlansJob | JudgeJob | AnswerJob
)
AnyDone = CompressDone | VerifyDone | EvaluateDone | ScoreDone | DeployDone | PlansDone | AnswerDone
JOB: TypeAdapter[AnyJob] = TypeAdapter(Annotated[AnyJob, Field(discriminator="kind")])


@dataclass(frozen=True)
class Ended(Generic[D]):
    """What came of a job, whatever became of its process.

    Attributes:
        reply: what it was asked for, or why there is none.
        waited_s: seconds between question and answer in which it did not run, such as those in
            line; negative where an earlier session had it begun.
        notes: what a user should know of how it went, such as damaged files that were mended.
        machine: id of the machine that did it; None: this one.
    """

    reply: D | Failed
    waited_s: float = 0.0
    notes: tuple[str, ...] = ()
    machine: str | None = None
