"""The whole evaluation of one model folder, in the process that serves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from paredown.evaluate.energy import measure_energy
from paredown.evaluate.footprint import measure_cache, measure_coverage, measure_size
from paredown.evaluate.grid import measure_grid
from paredown.evaluate.latency import measure_latency, measure_speedup
from paredown.evaluate.memory import (
    MemoryWatch,
    measure_weights,
    peak_measurements,
    serve_once,
)
from paredown.evaluate.quality import BaseOutputs, measure_quality
from paredown.runtimes.packages import open_model, package_of
from paredown.runtimes.registry import engine
from paredown.runtimes.room import has_room
from paredown.runtimes.session import Session
from paredown.spec.progress import Progress, part
from paredown.spec.result import Measurement
from paredown.spec.run import EvaluateConfig
from paredown.spec.speed import SpeedPoint
from paredown.spec.target import Device


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
    base: Callable[[Progress], BaseOutputs],
    base_folder: Path,
    base_bytes: int,
    config: EvaluateConfig,
    device: Device,
    trust_remote_code: bool,
    progress: Progress,
    runtime: str = "torch",
) -> Evaluation:
    """Measure a model folder as it will run, in the engine that will run it.

    Serving comes first, while the process holds nothing but the model, so that its peak memory is
    that of serving; quality follows, and last the decode speed in turns with the base, where there
    is room for both. Of a model that does not fit in memory only quality and size are measured.
    """
    progress(0.0, "loading")
    runs_in = engine(runtime)
    package = package_of(runs_in, folder)
    opened = partial(open_model, runs_in, device=device, trust_remote_code=trust_remote_code)
    watch = MemoryWatch(device)
    with watch.phase("load"):
        session = opened(folder, stream=config.stream)
        watch.follow(session.pid)
    served = Evaluation((), ())
    if session.whole:
        served = _serve(session, config, watch, progress)
    progress(0.4, "quality")
    # After all that is timed or weighed, because it may change the dtype.
    session.for_many_tokens()
    outputs = base(part(progress, 0.4, 0.6))
    quality = measure_quality(
        session, tokens, outputs, protocol=protocol, progress=part(progress, 0.6, 0.85)
    )
    notes, is_whole = session.notes, session.whole
    session.close()
    del session  # the next models need its room
    found = [*quality, *served.measurements, *measure_size(package, base_bytes, runs_in)]
    found += measure_coverage(folder)
    if is_whole and base_folder != folder and has_room(base_bytes + package.nbytes, device):
        progress(0.85, "decode speed beside the base")
        # For many tokens the model may have been widened: compared is the model as it is served.
        one, reference = opened(folder), opened(base_folder)
        found += measure_speedup(one, reference, config)
        one.close()
        reference.close()
    return Evaluation(tuple(found), (*notes, *served.notes), served.speed)


def _serve(
    session: Session, config: EvaluateConfig, watch: MemoryWatch, progress: Progress
) -> Evaluation:
    """What is timed and weighed; the notes say what could not be."""
    progress(0.1, "latency")
    serve_once(session, config, watch)
    latency = measure_latency(session, config)
    cache = measure_cache(session)
    memory = [*peak_measurements(watch, config), measure_weights(session), *cache]
    progress(0.3, "energy")
    energy, missing = measure_energy(session, config)
    speed: list[SpeedPoint] = []
    left_out: list[str] = []
    if config.grid is not None:
        speed, left_out = measure_grid(
            session,
            config.grid,
            cache_bytes=cache[0].value if cache else 0.0,
            progress=part(progress, 0.3, 0.4),
        )
    return Evaluation((*latency, *energy, *memory), (*missing, *left_out), tuple(speed))
