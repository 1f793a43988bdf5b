"""Where the model will run, and what the user can accept."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Device = Literal["cpu", "cuda"]


class Limits(BaseModel):
    """The user's limits; None means no limit."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    max_memory_gb: float | None = Field(default=None, gt=0)
    """Peak memory of the process that serves the model, in 1e9 bytes."""
    max_accuracy_loss: float | None = Field(default=None, ge=0)
    """Loss of quality, in percent of the baseline's (for a text: rise of perplexity)."""
    min_speedup: float | None = Field(default=None, gt=0)
    """Decode speed relative to the baseline; 1.5 means 1.5 times as fast."""
    target_ratio: float | None = Field(default=None, gt=1)
    """Size of the baseline's files over the artifact's; 3 means three times smaller."""


class Target(BaseModel):
    """Device, runtime and limits."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    device: Device = "cpu"
    runtime: str = "torch"
    """Name of the runtime that must hold whatever is made."""
    limits: Limits = Limits()
