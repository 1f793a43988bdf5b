"""What a method is: a parameter class and three verbs.

A method turns one model folder into another, reading tensor by tensor or block by block and
writing as it goes, so that memory does not grow with the model. Modules of methods import torch
and other heavy libraries inside `apply` only: listing and planning work without them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from paredown.spec.domain import Scalar
from paredown.spec.model import ModelSpec
from paredown.spec.target import Device, Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.store.cache import Cache


class Kind(StrEnum):
    """Families of methods."""

    QUANTIZATION = "quantization"
    PRUNING = "pruning"
    TUNING = "tuning"


class Params(BaseModel):
    """Base of every parameter class: frozen, unknown keys refused, fields documented once.

    Validity (`Field(ge=2)`) and search domain (`Choice(4, 8)`) stand beside each field; the
    CLI's help, the JSON schema, the search space and the docs derive from them.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    def content(self, data_dir: Path | None) -> dict[str, str]:
        """Hashes of what fields only name (a text, a folder of images), by field.

        Part of the keys of results: the same name may stand for something else tomorrow.

        Args:
            data_dir: folder of offline data sets.

        Raises:
            DataError: there is no such text or folder.
        """
        return {}

    @classmethod
    def proposed(cls, values: dict[str, Scalar]) -> dict[str, Scalar] | None:
        """What a search proposes for a value of each of its domains; None for nothing, where one of
        them leaves no meaning to another."""
        return values


P = TypeVar("P", bound=Params)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What steps that train use besides calibration."""

    base: Path
    """Folder of the uncompressed model that the strategy started from: a teacher."""
    windows: Callable[[int, int, str | None], Tensor]
    """(count, length, text source; None = the run's calibration text) -> (count, length) int64
    token ids, none of which is evaluation text. Raises DataError where the text is too short."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a method may use besides the model and its parameters."""

    device: Device
    seed: int
    source_hash: str
    """Content of the model that this step starts from; part of every cache key."""
    scratch: Path
    """Empty folder, deleted afterwards."""
    cache: Cache
    """Results keyed by content, shared by all trials (Hessians, calibration text)."""
    calibration: Callable[[], Tensor]
    """Calibration windows, (samples, length) int64 token ids; read when first called."""
    progress: Callable[[float, str], None]
    """Report the share done (0 to 1) and what is being done."""
    trust_remote_code: bool = False
    training: Training | None = None
    """None only where no step trains."""


class Method(ABC, Generic[P]):
    """One way to compress or recover. Stateless; subclasses are final.

    Class attributes:
        name: how strategies call it.
        kind: its family; decides which orders of steps make sense.
        summary: one line for listings.
        params_type: its parameter class.
        needs_data: whether `apply` reads `context.calibration`; `reads_data` where it depends on
            parameters.
        extra: (importable module, pip extra) of an optional library, else None.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    summary: ClassVar[str]
    params_type: ClassVar[type[Params]]
    needs_data: ClassVar[bool] = False
    extra: ClassVar[tuple[str, str] | None] = None

    def reads_data(self, params: P) -> bool:
        """Whether `apply` reads `context.calibration` with these parameters."""
        return self.needs_data

    def knows_bytes(self, params: P) -> bool:
        """Whether the bytes that `predict` tells are exact with these parameters.

        An artifact of other bytes then fails: its step did something else than it says.
        """
        return True

    def disk(self, spec: ModelSpec, params: P, cache: Cache) -> tuple[int, int]:
        """Bytes that `apply` lays down besides its result: (in scratch, in the cache to be read
        again before it ends). Nothing unless a method says otherwise."""
        return 0, 0

    @abstractmethod
    def check(self, spec: ModelSpec, params: P, target: Target) -> None:
        """Refuse, at planning time and from the spec alone, what cannot work.

        Raises:
            ConfigError: with the mend in the message.
        """

    @abstractmethod
    def predict(self, spec: ModelSpec, params: P) -> ModelSpec:
        """The spec after this step: the exact list of stored tensors, and in `options` what each
        layer is stored as, so that a runtime can be asked whether it holds that."""

    @abstractmethod
    def apply(self, source: Checkpoint, out: Path, params: P, context: Context) -> Tensor | None:
        """Compress the model folder `source` into the empty folder `out`.

        Deterministic for a seed. A complete Hugging Face folder stands in `out` afterwards.

        Returns:
            Logits (tokens, vocabulary) of the compressed model, computed in memory on
            `blocks.probe.probe_tokens`: the artifact must reload to them. None where the
            method never holds the model; then its loaders are compared with each other.

        Raises:
            MethodError: the method failed on this model.
        """


AnyMethod = Method[Any]
