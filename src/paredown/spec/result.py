"""Results: measurements that can be trusted and repeated, and failures with their cause."""

from __future__ import annotations

import math
import re
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, computed_field, field_validator, model_validator

from paredown.spec.scores import TaskScore
from paredown.spec.serial import SCHEMA_VERSION
from paredown.spec.speed import SpeedPoint
from paredown.spec.strategy import Strategy
from paredown.spec.units import GB, Unit
from paredown.spec.verdict import verdict

Evidence = Literal["checked", "documented", "untested"]
"""How it is known that a runtime loads something: seen here, or read in its documentation; or the
format is known but not whether it is read of such a model."""

Source = Literal["measured", "derived", "estimated"]


class Measurement(BaseModel):
    """One number, with everything needed to trust or repeat it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """What was measured, e.g. `perplexity`."""
    value: float
    """In `unit`. Always finite: what failed is a `Failure`, never a NaN."""
    unit: Unit
    n: int
    """Independent samples behind the value (windows or repeats, not tokens)."""
    stderr: float | None
    """Standard error of the value; None when n == 1."""
    low: float | None = None
    high: float | None = None
    """95 % interval, where one was computed."""
    lower_is_better: bool
    source: Source
    """`measured`, `derived` exactly from measurements, or `estimated` by a model."""
    how: str
    """The protocol and its settings, in words."""

    @model_validator(mode="after")
    def _trustworthy(self) -> Self:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.name} is {self.value}; record a Failure instead")
        if self.n < 1:
            raise ValueError(f"{self.name}: n = {self.n}, but a measurement has n >= 1 samples")
        if (self.stderr is None) != (self.n == 1):
            raise ValueError(f"{self.name}: give stderr if and only if n > 1 (n = {self.n})")
        return self


class LoadsIn(BaseModel):
    """A runtime that loads an artifact, and how that is known."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    runtime: str
    known: Evidence
    detail: str = ""
    """What is untested, e.g. `a mixture of experts`."""

    @property
    def words(self) -> str:
        """As people read it; empty of the runtime in which everything is checked."""
        called = {"transformers": "plain transformers", "vllm": "vLLM"}.get(
            self.runtime, self.runtime
        )
        if self.runtime == "torch":
            return ""
        match self.known:
            case "checked":
                return f"{called} loads it (checked)"
            case "documented":
                return f"{called} reads this format (not run here)"
            case "untested":
                return (
                    f"{called} knows this format; whether it reads it of {self.detail} is untested"
                )


_OLD_NOTES = (
    (re.compile(r"plain transformers loads it \(checked\)"), "transformers", "checked"),
    (re.compile(r"vLLM reads this format \(not run here\)"), "vllm", "documented"),
    (re.compile(r"vLLM knows this format; whether it reads it of (.+) is untested"), "vllm",
     "untested"),
)  # fmt: skip
"""Notes in which records of schema 1 said what loads an artifact -> runtime and evidence."""


class FailureKind(StrEnum):
    """Why a trial produced nothing."""

    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    METHOD_ERROR = "method_error"
    DIVERGED = "diverged"
    SCREENED = "screened"


class Failure(BaseModel):
    """Why a trial produced nothing, for people and for the search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FailureKind
    message: str
    stage: str = ""

    @field_validator("kind", mode="before")
    @classmethod
    def _read_old_kind(cls, kind: Any) -> Any:
        # A kind that no code of paredown has set; records of other hands may hold it.
        return FailureKind.METHOD_ERROR if kind == "unsupported" else kind


class NotScored(BaseModel):
    """A candidate that was not worth a benchmark: its cheap measures said so."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    benchmarks: tuple[str, ...]
    """Those that were asked for."""
    reason: str
    """In words, such as the limit that is missed."""

    @property
    def words(self) -> str:
        """As people read it."""
        return f"not scored on {', '.join(self.benchmarks)}: {self.reason}"


_OLD_NOT_SCORED = re.compile(r"not scored on (.+?): (.+)")
"""The note in which records of schema 1 said so; no name of a benchmark holds a colon and blank."""


class TrialResult(BaseModel):
    """What came of one strategy: measurements of its artifact, or the failure.

    The flat fields (`accuracy` to `compression_ratio`) repeat measurements under the names
    that scripts read; they are None where nothing was measured.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    schema_version: int = SCHEMA_VERSION
    episode: int
    strategy: Strategy | None
    """None for the uncompressed baseline (episode 0)."""
    label: str
    """The strategy as shown to people: parameters at their default are left out."""
    kind: str
    """`baseline`, `quantization`, `pruning`, `tuning` or `pipeline`."""
    status: Literal["ok", "failed"]
    measurements: tuple[Measurement, ...] = ()
    scores: tuple[TaskScore, ...] = ()
    """Benchmarks, each compared with the base on the same items."""
    speed: tuple[SpeedPoint, ...] = ()
    """Latency and throughput over a grid, where one was asked for."""
    failure: Failure | None = None
    unmet: tuple[str, ...] = ()
    """Limits of the user that this result does not meet, in words."""
    notes: tuple[str, ...] = ()
    """What a user of this artifact should know, e.g. that its format has no fast kernel."""
    not_scored: NotScored | None = None
    """Why no benchmark was asked of it, where that was decided."""
    loads_in: tuple[LoadsIn, ...] = ()
    """The runtimes that load the artifact, most capable first; empty for the baseline."""
    proposed_by: str | None = None
    """The policy that proposed the strategy, as in its decision; None where nobody recorded it."""
    expected: dict[str, float] = {}
    """What its decision expected, by measurement name; `seconds` of the trial."""
    artifact: str | None = None
    """Path of the artifact, relative to the experiment folder, while it is kept."""
    compress_s: float = 0.0
    evaluate_s: float = 0.0
    """Seconds spent inside compressing (with verification) and evaluating."""
    wall_s: float = 0.0
    """Seconds of the whole episode."""
    machine: str | None = None
    """Id of the machine that it was measured on; None where it was not written down."""
    reused_s: float = 0.0
    """Seconds that its first steps took in the earlier trial whose result it started from."""
    accuracy: float | None = None
    """Share of next tokens predicted right on the held-out text."""
    latency_ms: float | None = None
    """Decode, milliseconds per token."""
    memory_gb: float | None = None
    """Peak memory of the process that serves the artifact, 1e9 bytes."""
    model_size_gb: float | None = None
    """Weights files on disk, 1e9 bytes."""
    energy_joules: float | None = None
    """Per generated token, above the power at idle: measured where the hardware counts it, else
    estimated (`source` of the measurement `energy`)."""
    compression_ratio: float | None = None
    """Base weights files / artifact weights files."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_notes(cls, fields: Any) -> Any:
        """Records used to say in notes what loads an artifact."""
        if not isinstance(fields, dict) or "loads_in" in fields:
            return fields
        notes, found = [], []
        for note in fields.get("notes") or ():
            told = _told_by(note)
            notes += [note] if told is None else []
            found += [] if told is None else [told]
        return fields | {"notes": tuple(notes), "loads_in": tuple(found)} if found else fields

    @model_validator(mode="before")
    @classmethod
    def _read_old_not_scored(cls, fields: Any) -> Any:
        """Records used to say in a note that no benchmark was asked."""
        if not isinstance(fields, dict) or "not_scored" in fields:
            return fields
        for note in fields.get("notes") or ():
            if isinstance(note, str) and (told := _OLD_NOT_SCORED.fullmatch(note)):
                found = NotScored(benchmarks=tuple(told[1].split(", ")), reason=told[2])
                notes = tuple(other for other in fields["notes"] if other != note)
                return fields | {"notes": notes, "not_scored": found}
        return fields

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if (self.status == "failed") != (self.failure is not None):
            raise ValueError("a failed trial has a failure, a finished one has none")
        return self

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> str | None:
        """What became of the model, in one line of words; None for a failure and for the base."""
        return None if self.status == "failed" or self.kind == "baseline" else verdict(self)

    @property
    def booked_s(self) -> float:
        """Seconds that the episode would have taken by itself: what a search reckons with.

        A step of ten minutes whose result was there already takes a second of `wall_s`; that says
        nothing of what the method costs.
        """
        return self.wall_s + self.reused_s

    @property
    def remarks(self) -> tuple[str, ...]:
        """Everything that a user should know, in words: the notes, why it has no scores, and what
        loads it."""
        unscored = () if self.not_scored is None else (self.not_scored.words,)
        return (*self.notes, *unscored, *filter(None, (found.words for found in self.loads_in)))

    def __repr__(self) -> str:
        told = self.failure.kind if self.failure else f"{len(self.measurements)} measurements"
        return f"TrialResult({self.episode}: {self.label}; {told})"

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        from paredown.spec.card import result_card

        return result_card(self)

    def get(self, name: str) -> Measurement | None:
        """The measurement called `name`, if there is one."""
        return next((m for m in self.measurements if m.name == name), None)

    def value(self, name: str) -> float | None:
        """Value of the measurement called `name`, if there is one."""
        found = self.get(name)
        return None if found is None else found.value


def _told_by(note: object) -> LoadsIn | None:
    for pattern, runtime, known in _OLD_NOTES:
        match = pattern.fullmatch(note) if isinstance(note, str) else None
        if match is not None:
            detail = "".join(match.groups())
            return LoadsIn.model_validate({"runtime": runtime, "known": known, "detail": detail})
    return None


def flat_fields(measurements: tuple[Measurement, ...]) -> dict[str, float | None]:
    """The flat fields of `TrialResult`, from its measurements."""
    by_name = {m.name: m.value for m in measurements}

    def scaled(name: str, factor: float) -> float | None:
        return by_name[name] / factor if name in by_name else None

    return {
        "accuracy": by_name.get("accuracy"),
        "latency_ms": by_name.get("decode_latency"),
        "memory_gb": scaled("peak_memory", GB),
        "model_size_gb": scaled("size", GB),
        "energy_joules": by_name.get("energy"),
        "compression_ratio": by_name.get("compression_ratio"),
    }
