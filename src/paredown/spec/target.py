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
        """The limits that `result` breaks, each in words with the number seen."""
        broken: list[str] = []
        memory = result.value("peak_memory")
        if self.max_memory_gb and memory is not None and memory > self.max_memory_gb * GB:
            broken.append(f"memory {memory / GB:.2f} GB > {self.max_memory_gb:g} GB")
        loss = quality_loss(result, baseline)
        if self.max_accuracy_loss is not None and loss is not None and loss > self.max_accuracy_loss:
            broken.append(f"quality loss {loss:.1f} % > {self.max_accuracy_loss:g} %")
        speedup = result.value("speedup")
        if self.min_speedup and speedup is not None and speedup < self.min_speedup:
            broken.append(f"speed-up {speedup:.2f}x < {self.min_speedup:g}x")
        ratio = result.value("compression_ratio")
        if self.target_ratio and ratio is not None and ratio < self.target_ratio:
            broken.append(f"ratio {ratio:.2f}x < {self.target_ratio:g}x")
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
