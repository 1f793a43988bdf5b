"""Where the model will run, and what the user can accept."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from paredown.spec.result import TrialResult
from paredown.spec.units import GB

Device = Literal["cpu", "cuda"]


class Limits(BaseModel):
    """The user's limits; None means no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_memory_gb: float | None = Field(default=None, gt=0)
    """Peak memory of the process that serves the model, in 1e9 bytes."""
    max_accuracy_loss: float | None = Field(default=None, ge=0)
    """Loss of quality, in percent of the baseline's (for a text: rise of perplexity)."""
    min_speedup: float | None = Field(default=None, gt=0)
    """Decode speed relative to the baseline; 1.5 means 1.5 times as fast."""
    target_ratio: float | None = Field(default=None, gt=1)
    """Size of the baseline's files over the artifact's; 3 means three times smaller."""

    def unmet(self, result: TrialResult, baseline: TrialResult) -> tuple[str, ...]:
        """The limits that `result` does not meet, each in words with the number seen.

        What was not measured does not meet its limit.
        """
        memory = result.value("peak_memory")
        checks = (
            ("memory", self.max_memory_gb, None if memory is None else memory / GB, "GB", 1),
            ("quality loss", self.max_accuracy_loss, quality_loss(result, baseline), "%", 1),
            ("speed-up", self.min_speedup, result.value("speedup"), "x", -1),
            ("ratio", self.target_ratio, result.value("compression_ratio"), "x", -1),
        )
        broken = []
        for name, limit, seen, unit, sign in checks:
            if limit is None:
                continue
            if seen is None:
                broken.append(f"{name} was not measured")
            elif sign * seen > sign * limit:
                relation = ">" if sign > 0 else "<"
                broken.append(f"{name} {seen:.3g} {unit} {relation} {limit:g} {unit}")
        return tuple(broken)


class Target(BaseModel):
    """Device, runtime and limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Device = "cpu"
    runtime: Literal["paredown", "transformers"] = "paredown"
    limits: Limits = Limits()


def quality_loss(result: TrialResult, baseline: TrialResult) -> float | None:
    """Loss of quality in percent of the baseline's: the rise of perplexity. Negative = better."""
    mine, base = result.value("perplexity"), baseline.value("perplexity")
    return None if mine is None or base is None else 100.0 * (mine / base - 1.0)
