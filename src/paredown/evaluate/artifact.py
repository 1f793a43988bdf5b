"""The whole evaluation of one model folder, in the process that serves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from torch import Tensor

from paredown.evaluate.energy import measure_energy
from paredown.evaluate.footprint import measure_cache, measure_size
from paredown.evaluate.grid import measure_grid
from paredown.evaluate.latency import measure_latency, measure_speedup
from paredown.evaluate.memory import (
    MemoryWatch,
    measure_weights,
    peak_measurements,
    serve_once,
)
from paredown.evaluate.quality import BaseOutputs, for_quality, measure_quality
from paredown.runtimes.torch.load import load
from paredown.spec.result import Measurement
from paredown.spec.run import EvaluateConfig
from paredown.spec.speed import SpeedPoint


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and what a user of the model should know."""

    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...]
    speed: tuple[SpeedPoint, ...] = ()


def evaluate_folder(
    folder: Path,
    *,
    tokens: Tensor,
    protocol: str,
    base: Callable[[], BaseOutputs],
    base_folder: Path,
    base_bytes: int,
    config: EvaluateConfig,
    device: str,
    trust_remote_code: bool,
    progress: Callable[[float, str], None],
) -> Evaluation:
    """Measure a model folder as it will run.

    Serving comes first, while the process holds nothing but the model, so that its peak memory is
    that of serving; quality follows, and last the decode speed in turns with the base, where there
    is room for both.
    """
    progress(0.0, "loading")
    watch = MemoryWatch(device)
    with watch.phase("load"):
        model = load(folder, device=device, trust_remote_code=trust_remote_code)
    notes = list(model.paredown.notes)
    progress(0.1, "latency")
    serve_once(model, config, watch)
    latency = measure_latency(model, config, device=device)
    cache = measure_cache(model, device=device)
    memory = [*peak_measurements(watch, config), measure_weights(model), *cache]
    progress(0.3, "energy")
    energy, missing = measure_energy(model, config, device=device)
    speed: list[SpeedPoint] = []
    left_out: list[str] = []
    if config.grid is not None:
        speed, left_out = measure_grid(
            model,
            config.grid,
            cache_bytes=cache[0].value if cache else 0.0,
            device=device,
            progress=lambda share, message: progress(0.3 + 0.1 * share, message),
        )
    progress(0.4, "quality")
    quality = measure_quality(
        for_quality(model, device), tokens, base(), protocol=protocol, device=device
    )
    del model
    found = [*quality, *latency, *energy, *memory, *measure_size(folder, base_bytes)]
    if base_folder != folder and _has_room(base_bytes, device):
        progress(0.85, "decode speed beside the base")
        # `for_quality` may have widened the model: what is compared is the model as it is served.
        served = load(folder, device=device, trust_remote_code=trust_remote_code)
        reference = load(base_folder, device=device, trust_remote_code=trust_remote_code)
        found += measure_speedup(served, reference, config, device=device)
    return Evaluation(tuple(found), (*notes, *missing, *left_out), tuple(speed))


def _has_room(base_bytes: int, device: str) -> bool:
    """Whether the base model fits beside what this process holds."""
    if device == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info()
        return bool(free > 1.2 * base_bytes)
    return bool(psutil.virtual_memory().available > 1.5 * base_bytes)
