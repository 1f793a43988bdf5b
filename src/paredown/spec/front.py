"""The record of a curve: plans along it, and what was measured of each. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from paredown.spec.plan import PlanRecord
from paredown.spec.result import Measurement
from paredown.spec.serial import SCHEMA_VERSION


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FrontPoint(_Record):
    """A plan, and what became of it."""

    name: str
    """`mixed-03` or `uniform-01`; also of its plan's file."""
    kind: Literal["mixed", "uniform"]
    plan: PlanRecord
    measurements: tuple[Measurement, ...] = ()
    """Of the artifact that was built, reloaded and measured; empty before."""
    failure: str | None = None
    """Why it was not measured."""
    seconds: float = 0.0
    """That building, proving and measuring it took."""

    @property
    def is_done(self) -> bool:
        """Whether it need not be tried again."""
        return bool(self.measurements) or self.failure is not None

    def get(self, name: str) -> Measurement | None:
        """A measurement by name."""
        return next((m for m in self.measurements if m.name == name), None)


class CurveRecord(_Record):
    """All points of a curve, uniform ones first, smallest first."""

    schema_version: int = SCHEMA_VERSION
    request: dict[str, object]
    """What was asked for; another request needs another folder."""
    model: str
    model_sha256: str
    plans_s: float = Field(0.0, ge=0)
    """Seconds that finding the plans took."""
    points: tuple[FrontPoint, ...] = ()

    def of_kind(self, kind: str) -> tuple[FrontPoint, ...]:
        """The measured points of a kind."""
        return tuple(p for p in self.points if p.kind == kind and p.measurements)
