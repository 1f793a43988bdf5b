"""`proof.json`: what was measured of a package when it was made, and what is compared later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from paredown.analysis.divergence import kl_of_likeliest
from paredown.errors import ConfigError
from paredown.spec.reading import read_object
from paredown.spec.result import Measurement
from paredown.spec.scores import TaskScore
from paredown.spec.serial import SCHEMA_VERSION

FILE = "proof.json"
AGREES = 0.02
"""KL in nats per token below which an engine's own arithmetic may explain a difference: the engines
here stayed below 0.003 on real models."""
ANSWER_TOKENS = 32
"""Longest answer to a golden prompt that is kept."""
_SLACK = 4.0
"""Another machine rounds differently: so many times the divergence seen here still agrees."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Likely(_Record):
    """The likeliest next tokens after a prompt."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    """Of each token, for servers that give no ids."""
    logprobs: tuple[float, ...]
    """Nats."""

    def by_id(self) -> dict[int, float]:
        """Log-probability by token id."""
        return dict(zip(self.ids, self.logprobs, strict=True))


class Golden(_Record):
    """A prompt whose answer is known."""

    message: str
    """What the user says."""
    text: str
    """The whole prompt, chat template applied where the model has one."""
    ids: tuple[int, ...]
    """Its tokens."""
    is_chat: bool
    """Whether the chat endpoint is to make the same prompt of the message."""
    next: Likely
    """What the artifact itself holds to be likeliest next, computed by torch."""
    base_answer: str = ""
    """How the uncompressed model went on in the same engine."""
    answer: str = ""
    """How the package went on, served by its engine when it was made."""
    finish: str | None = None
    """How that ended: `stop` or `length`."""


class Tokens(_Record):
    """A text and its tokens, without special ones."""

    text: str
    ids: tuple[int, ...]


class Pair(_Record):
    """A number of the package beside that of the base in the same engine, measured in turns."""

    name: str
    unit: str
    package: float
    base: float
    ratio: float
    """Of the package over the base; the median over pairs."""
    low: float | None = None
    high: float | None = None
    """95 % interval of the ratio; None of a single pair."""
    n: int
    lower_is_better: bool
    how: str


class Proof(_Record):
    """Everything that was measured when the package was made."""

    schema_version: int = SCHEMA_VERSION
    runtime: str
    engine: dict[str, str]
    """Versions of the engine's libraries."""
    machine: str
    measured_at: str
    """UTC, ISO 8601."""
    version: str
    """Of the package: hash of the engine's files."""
    golden: tuple[Golden, ...]
    tokens: tuple[Tokens, ...]
    vocabulary: int | None = None
    """Tokens of the artifact's vocabulary, which are the package's."""
    answer_tokens: int
    """Longest answer to a golden prompt."""
    quality: tuple[Measurement, ...]
    """Of the package in its engine, `kl` and the like against the base in the same engine."""
    exactness: tuple[Measurement, ...]
    """Of the package in its engine against the artifact computed by torch."""
    scores: tuple[TaskScore, ...] = ()
    """Benchmarks in the engine, each beside the base."""
    served: tuple[Pair, ...] = ()
    """Time and memory of both servers."""
    energy: tuple[Pair, ...] = ()
    """Joules per token in the engine; whether they were measured or estimated, `how` says."""
    served_kl: float | None = None
    """KL of the served answers' first tokens from the artifact's, nats; None: nothing is served."""
    peak_bytes: int | None = None
    """Resident memory of the server at its peak, after golden prompts and timed answers."""
    notes: tuple[str, ...] = ()

    @property
    def kl_bound(self) -> float:
        """KL of golden prompts up to which a served model is this one."""
        return max(AGREES, _SLACK * (self.served_kl or 0.0))


def read_proof(path: Path) -> Proof:
    """The proof in a file.

    Raises:
        ConfigError: it is missing, damaged, or a newer version wrote it.
    """
    document = read_object(path, error=ConfigError, mend="give the proof.json of a package")
    version = document.get("schema_version", 1)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ConfigError(f"{path} was written by a newer paredown; please upgrade")
    try:
        return Proof.model_validate(document)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"{path} is no proof of a package: {where}: {fault['msg']}") from None


def divergence(golden: Golden, served: dict[Any, float]) -> float:
    """KL(artifact, served) of the token after a golden prompt, nats; at least 0.

    Args:
        served: log-probabilities of the likeliest tokens, by id or by text; not empty.
    """
    ids = dict(zip(golden.next.texts, golden.next.ids, strict=True))
    # A text that the artifact does not hold likely gets an id of its own: all of its mass differs.
    by_id = {
        token if isinstance(token, int) else ids.get(token, -1 - k): value
        for k, (token, value) in enumerate(served.items())
    }
    return kl_of_likeliest(golden.next.by_id(), by_id)
