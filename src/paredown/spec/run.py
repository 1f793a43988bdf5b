"""RunConfig: the whole request of an experiment, as understood."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from paredown.spec.target import Limits

PolicyName = Literal["grid", "random", "tpe"]
Objective = Literal["quality", "size", "latency", "memory"]
OBJECTIVES: tuple[Objective, ...] = ("quality", "size", "latency", "memory")


class EvaluateConfig(BaseModel):
    """How an artifact is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    tokens: int = Field(default=8192, ge=512)
    """Tokens of held-out text for perplexity, KL and top-1 agreement."""
    window: int = Field(default=512, ge=16)
    """Tokens per non-overlapping window; shortened to the model's context."""
    prompt_tokens: int = Field(default=128, ge=1)
    """Prompt length of the latency measurement."""
    decode_tokens: int = Field(default=32, ge=4)
    """Tokens decoded per repeat of the latency measurement."""
    repeats: int = Field(default=5, ge=2)
    """Repeats of the latency measurement, after one warm-up."""


class CalibrationConfig(BaseModel):
    """Text on which data-dependent methods calibrate."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    source: str | None = None
    """Text source; None takes the training part of the evaluation data."""
    samples: int = Field(default=32, ge=1)
    """Windows of calibration text."""
    length: int = Field(default=512, ge=16)
    """Tokens per window."""


class RunConfig(BaseModel):
    """Everything that decides what an experiment does. Two equal configs are one experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str
    """Local folder, hub name, or `demo`."""
    data: str = "pydoc"
    """Evaluation text: `pydoc`, `self`, `wikitext2`, or a .txt/.jsonl file or folder."""
    data_dir: Path | None = None
    """Folder with offline data sets."""
    calibration: CalibrationConfig = CalibrationConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    limits: Limits = Limits()
    objectives: tuple[Objective, ...] = OBJECTIVES
    """What the Pareto front trades off."""
    episodes: int = Field(default=10, ge=1)
    """Trials after the baseline."""
    budget_h: float | None = Field(default=None, gt=0)
    """Hours for the whole experiment; a trial that would run over is stopped."""
    trial_timeout_h: float = Field(default=4.0, gt=0)
    """Hours for one trial."""
    worker_memory_gb: float | None = Field(default=None, gt=0)
    """Memory a trial's process may use; None: nine tenths of what is free at its start."""
    methods: tuple[str, ...] | None = None
    """Methods to search over; None: all that suit the model and this machine."""
    max_steps: int = Field(default=2, ge=1, le=4)
    """Longest pipeline that the search proposes."""
    policy: PolicyName = "tpe"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trust_remote_code: bool = False
