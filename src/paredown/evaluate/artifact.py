"""The whole evaluation of one model folder, in the process that serves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from paredown.evaluate.footprint import measure_memory, measure_size
from paredown.evaluate.latency import measure_latency
from paredown.evaluate.quality import BaseOutputs, for_quality, measure_quality
from paredown.models.load import load
from paredown.spec.result import Measurement
from paredown.spec.run import EvaluateConfig


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and what a user of the model should know."""

    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...]


def evaluate_folder(
    folder: Path,
    *,
    tokens: Tensor,
    protocol: str,
    base: Callable[[], BaseOutputs],
    base_bytes: int,
    config: EvaluateConfig,
    device: str,
    trust_remote_code: bool,
    progress: Callable[[float, str], None],
) -> Evaluation:
    """Measure a model folder as it will run.

    Serving comes first, while the process holds nothing but the model, so that its peak memory is
    that of serving; quality follows.
    """
    progress(0.0, "loading")
    model = load(folder, device=device, trust_remote_code=trust_remote_code)
    notes = model.paredown.notes
    progress(0.1, "latency")
    latency = measure_latency(model, config, device=device)
    memory = measure_memory(device)
    progress(0.4, "quality")
    quality = measure_quality(
        for_quality(model, device), tokens, base(), protocol=protocol, device=device
    )
    size = measure_size(folder, base_bytes)
    return Evaluation((*quality, *latency, *memory, *size), notes)
