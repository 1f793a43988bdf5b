"""The file of each stage: what it found, what it was made from, and what the next one reads of it.

A checkpoint may be edited between stages. What it was made from stands in it as hashes by name, so
that a stage is redone when one of them has changed, and not because its own file was edited.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from paredown.deploy.facts import Fact
from paredown.deploy.proof import Pair
from paredown.errors import ConfigError
from paredown.pipeline.messages import Answered
from paredown.spec.located import read_record
from paredown.spec.result import Measurement, TrialResult
from paredown.spec.serial import SCHEMA_VERSION, content_hash, plain
from paredown.store.atomic import write_json

Stage = Literal["analysis", "design", "implementation", "deployment"]
STAGES: tuple[Stage, ...] = ("analysis", "design", "implementation", "deployment")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Checkpoint(_Record):
    """What every stage writes down."""

    stage: ClassVar[Stage]

    schema_version: int = Field(default=SCHEMA_VERSION, le=SCHEMA_VERSION)
    made_at: str
    """UTC, ISO 8601."""
    made_from: dict[str, str]
    """What the stage depends on, each by a hash of it; another hash, and the stage is redone."""

    @property
    def content(self) -> str:
        """Hash of what was found, edits included, whenever and from whatever it was made."""
        fields = {k: v for k, v in plain(self).items() if k not in {"made_at", "made_from"}}
        return content_hash(fields)


# --- Analysis -------------------------------------------------------------------------------------


class Model(_Record):
    """What is known of the model from its config and headers."""

    name: str
    sha256: str
    """Over its weights."""
    architecture: str
    family: str
    parameters: int
    active_parameters: int
    layers: int | None
    hidden_size: int | None
    heads: int | None
    kv_heads: int | None
    vocabulary: int | None
    context: int | None
    dtype: str
    weight_bytes: int
    cache_bytes_per_token: int | None
    """In 16 bits, every layer keeping everything; None: not known."""
    unknown: tuple[str, ...]


class Place(_Record):
    """A version of the model on devices of the catalogue; times and memory are estimates."""

    version: str
    nbytes: int
    devices: str
    """`2x L4`."""
    runtime: str
    memory_bytes: int | None
    """Of the fullest device; None: the cache is unknown."""
    limit_bytes: int
    ttft_s: float | None
    tpot_s: float
    usd_per_hour: tuple[float, float] | None
    """Range over providers; None: no price is known."""
    price_date: str | None
    is_target: bool
    """Whether it is the device that the constraints name."""


class Here(_Record):
    """A version on this machine's processor; estimates."""

    version: str
    nbytes: int
    memory_bytes: int | None
    fits: bool | None
    """Within what was free; None: the cache is unknown."""
    tpot_s: float | None
    """None: the engine's speed here is not known."""


class Analysis(Checkpoint):
    """Model, machine, hardware that would do, and the uncompressed model as it was measured."""

    stage = "analysis"

    model: Model
    cpu: str
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...]
    work: str
    """That hardware was matched for: batch and context."""
    places: tuple[Place, ...]
    here: tuple[Here, ...]
    notes: tuple[str, ...]
    baseline: TrialResult


# --- Design ---------------------------------------------------------------------------------------


class Expectation(_Record):
    """A number that is expected, with the interval in which it is expected."""

    value: float
    low: float
    high: float


class Limit(_Record):
    """A constraint, and how a result stands to it."""

    field: str
    """Name of the constraint, as in the file."""
    bound: float
    unit: str
    state: Literal["met", "broken", "undecided"]
    seen: Expectation | None
    """None: nothing is known of it."""


class Candidate(_Record):
    """A strategy before it has run."""

    strategy: str
    size_bytes: int
    ratio: float
    memory_bytes: int | None
    speedup: Expectation | None
    perplexity_ratio: Expectation | None
    """Over the base's; None: unknown."""
    known_from: str
    limits: tuple[Limit, ...]


class Design(Checkpoint):
    """Strategies with what is expected of them, and those that will be carried out."""

    stage = "design"

    candidates: tuple[Candidate, ...]
    refused: dict[str, str]
    """Strategies that cannot run, and why."""
    favourite: str | None
    """Which of them the judge would take by prediction alone; None: none."""
    chosen: tuple[str, ...] = Field(min_length=1, max_length=12)
    """What the next stage carries out. Edit it: any strategy may stand here."""


# --- Implementation -------------------------------------------------------------------------------


class Exchange(_Record):
    """A message, and what base and artifact say to it."""

    message: str
    base: Answered
    artifact: Answered | None
    """None: nothing but the base is worth having."""


class Implementation(Checkpoint):
    """What was carried out, measured and asked."""

    stage = "implementation"

    experiment: str
    """Folder, below that of the lab."""
    baseline: TrialResult
    results: tuple[TrialResult, ...]
    """Of the strategies that were chosen, as far as they were carried out."""
    episode: int | None
    """What goes on to deployment: the number of a result with an artifact, or 0 for the base as it
    is; None: nothing. Edit it: any kept result may stand here."""
    reason: str
    """Of the judge, in English."""
    limits: tuple[Limit, ...]
    """Of what goes on."""
    asked: int | None
    """The episode that limits and answers are of; where `episode` was edited, it is asked again."""
    is_chat: bool
    exchanges: tuple[Exchange, ...]

    @property
    def result(self) -> TrialResult | None:
        """What goes on to deployment."""
        every = (self.baseline, *self.results)
        return next((r for r in every if r.episode == self.episode), None)


# --- Deployment -----------------------------------------------------------------------------------


class Served(_Record):
    """How the package is served."""

    context: int
    slots: int
    threads: int
    memory_bytes: int
    peak_bytes: int | None
    """Of the server while it was proved."""


class Deployment(Checkpoint):
    """The package, its proof, and whether it is ready."""

    stage = "deployment"

    runtime: str
    package: str | None
    """Folder of the package, or of the model where the engine reads that; None: there is nothing to
    deploy."""
    nbytes: int
    version: str
    exactness: tuple[Measurement, ...]
    """Of the package against the artifact computed by torch."""
    pairs: tuple[Pair, ...]
    """Times and memory of its server beside the base's."""
    served: Served | None
    """None: the engine has no server here."""
    facts: tuple[Fact, ...]
    """Of readiness."""


C = TypeVar("C", bound=Checkpoint)


def path_of(folder: Path, kind: type[Checkpoint]) -> Path:
    """The file of a stage."""
    return folder / f"{STAGES.index(kind.stage) + 1}-{kind.stage}.json"


def read(folder: Path, kind: type[C]) -> C | None:
    """The checkpoint of a stage; None where there is none yet.

    Raises:
        ConfigError: it is damaged, or was edited into something else; with line and field.
    """
    path = path_of(folder, kind)
    return read_record(kind, path) if path.is_file() else None


def require(folder: Path, kind: type[C]) -> C:
    """The checkpoint of a stage that must have been passed.

    Raises:
        ConfigError: it has not, or as `read`.
    """
    found = read(folder, kind)
    if found is None:
        raise ConfigError(
            f"{path_of(folder, kind)} is not there yet: the stage {kind.stage} comes first; leave "
            "out --stage, or name that one"
        )
    return found


def write(folder: Path, found: Checkpoint) -> None:
    """Write a checkpoint in its place, whole or not at all."""
    write_json(path_of(folder, type(found)), found)


def changed(before: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    """Names of what is not what it was."""
    return tuple(sorted(name for name in before.keys() | now.keys() if _differ(before, now, name)))


def _differ(before: dict[str, Any], now: dict[str, Any], name: str) -> bool:
    return before.get(name) != now.get(name)
