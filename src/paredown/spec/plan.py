"""Plans: which option every unit of a model has, as words, as a record, and compared. No torch.

A word names a grid: `4a64` has 4 bits, is asymmetric, and has groups of 64 inputs; `8s` is
symmetric with a group per row; `4a32r` has scales of few digits, `4k` two-level scales in
super-blocks of 256; `16` leaves a layer as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paredown.errors import ConfigError
from paredown.spec.reading import read_object
from paredown.spec.scheme import GridKind, Scheme
from paredown.spec.serial import SCHEMA_VERSION
from paredown.spec.superblocks import SUPER_LAYOUTS

KEPT = "16"
"""The word of a layer that stays as it is."""
DESCRIPTION = "paredown.json"
"""File of an artifact that holds its plan under the key `plan`."""
PLAN_FILE = "paredown_plan.json"
"""Where a step leaves its plan; it moves there when the artifact is described."""
_WORD = re.compile(r"(?P<bits>[2-8])(?P<kind>[as])(?P<group>\d*)(?P<short>r?)")
_SUPERBLOCK = re.compile(r"(?P<bits>\d)k")
_SHORT = {"a4", "a5"}
_LEAST_GROUP = 16


def scheme_word(scheme: Scheme | None) -> str:
    """`Scheme(4, 64, symmetric=False)` -> `'4a64'`; None -> `'16'`."""
    if scheme is None:
        return KEPT
    if scheme.kind is GridKind.SUPERBLOCK:
        return f"{scheme.bits}k"
    short = "r" if scheme.kind is GridKind.SHORT else ""
    kind = "s" if scheme.symmetric else "a"
    return f"{scheme.bits}{kind}{scheme.group_size if scheme.group_size > 0 else ''}{short}"


def read_word(word: str) -> Scheme | None:
    """The scheme that a word names; None for `16`.

    Raises:
        ValueError: it is no such word.
    """
    if word == KEPT:
        return None
    two_level = _SUPERBLOCK.fullmatch(word)
    if two_level is not None and int(two_level["bits"]) in SUPER_LAYOUTS:
        return Scheme.superblock(int(two_level["bits"]))
    match = _WORD.fullmatch(word)
    group = int(match["group"] or -1) if match else 0
    is_short = match is not None and bool(match["short"])
    is_known = match is not None and (not is_short or match["kind"] + match["bits"] in _SHORT)
    if match is None or not is_known or 0 <= group < _LEAST_GROUP:
        raise ValueError(
            f"{word!r} is no option; write bits (2 to 8), a or s (with zero-points or symmetric), "
            f"and the group size (from {_LEAST_GROUP}; nothing: whole rows), as in 4a64 or 8s; "
            "an r behind it (4 or 5 bits, asymmetric): scales of few digits, as in 4a32r; 2k to "
            f"6k: two-level scales; {KEPT} keeps a layer"
        )
    kind = GridKind.SHORT if is_short else GridKind.AFFINE
    return Scheme(int(match["bits"]), group, match["kind"] == "s", kind)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class UnitPlan(_Record):
    """What a unit of the model became, and why."""

    layers: tuple[str, ...] = Field(min_length=1)
    """Module names that share the option."""
    option: str
    """As `4a64`; `16` is as it was."""
    nbytes: int = Field(ge=0)
    """Stored for it, scales and headers included."""
    kl: float | None = None
    """What the option is forecast to cost, nats per token; None where nothing was forecast."""

    @property
    def bits(self) -> int:
        """Of one code; 16 for a layer that is kept."""
        scheme = read_word(self.option)
        return 16 if scheme is None else scheme.bits


class Anchor(_Record):
    """A plan on the way whose KL was measured, to bring forecasts to scale."""

    nbytes: int
    proxy: float
    """The sum of the sensitivities of its layers."""
    kl: float
    """Measured, nats per token, with the embedding as it was."""


class TunedRecord(_Record):
    """What tuning scales and norm gains brought, on windows that nothing was fitted to."""

    tokens: int
    """Of training text."""
    kl_before: float
    """From the base, nats per token."""
    kl_after: float
    kept: bool
    """Whether it was better; else everything is as it was."""


class PlanRecord(_Record):
    """A plan with what it was made from."""

    schema_version: int = SCHEMA_VERSION
    parameters: int = Field(gt=0)
    """Of the model that the plan is for."""
    nbytes: int = Field(gt=0)
    """Of the weights files, at most."""
    kl: float | None = None
    """Forecast for the whole plan, nats per token."""
    kappa: float | None = None
    """Factor from the sum of sensitivities to nats, from the anchors."""
    anchors: tuple[Anchor, ...] = ()
    tokens: int | None = None
    """Calibration tokens whose gradients the sensitivities are from."""
    units: tuple[UnitPlan, ...] = Field(min_length=1)
    tuned: TunedRecord | None = None
    """Where scales and norm gains were tuned."""

    @property
    def bpw(self) -> float:
        """Bits per weight: all bytes of the weights files over the parameters of the model."""
        return 8.0 * self.nbytes / self.parameters

    @property
    def by_layer(self) -> dict[str, str]:
        """Word by layer name: what `mixed(plan=...)` takes."""
        return {layer: unit.option for unit in self.units for layer in unit.layers}

    @classmethod
    def read(cls, path: Path) -> Self:
        """The plan of an artifact's folder, or of a file.

        Raises:
            ConfigError: there is none, or it is damaged.
        """
        file = path / DESCRIPTION if path.is_dir() else path
        if not file.is_file():
            raise ConfigError(f"{path}: there is no plan; give a plan file or an artifact's folder")
        found = read_object(file)
        if "strategy" in found:  # what an artifact says of itself
            found = found.get("plan") or {}
            if not found:
                raise ConfigError(f"{path}: this artifact was not made from a plan by `mixed`")
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{file}: damaged plan: {where}: {first['msg']}") from None


def layers_of_document(document: Mapping[str, Any]) -> dict[str, str]:
    """Word by layer name, from a plan's JSON: a record, or plainly `{layer: word}`.

    Raises:
        ValueError: it is neither.
    """
    if "units" in document:
        return PlanRecord.model_validate(document).by_layer
    if not all(isinstance(word, str) for word in document.values()):
        raise ValueError('write {"layer or pattern": "4a64", ...}')
    return dict(document)
