"""Latency and throughput over a grid of prompt lengths and batch sizes."""

from __future__ import annotations

import numpy as np
import psutil
import torch

from paredown.analysis.statistics import paired_bootstrap_ci
from paredown.evaluate.timing import Times, machine_words, prompts, repeat, timed
from paredown.runtimes.session import Session
from paredown.spec.progress import Progress
from paredown.spec.speed import SpeedGrid, SpeedPoint, Timing
from paredown.spec.units import human_bytes

_AT_LEAST = 3
_LOGIT_BYTES = 8
"""Of one logit of a prompt, and of a copy of it."""


@torch.inference_mode()
def measure_grid(
    session: Session,
    grid: SpeedGrid,
    *,
    cache_bytes: float,
    progress: Progress = lambda share, message: None,
    seed: int = 0,
) -> tuple[list[SpeedPoint], list[str]]:
    """Time a session at every point of a grid, small points first.

    Args:
        cache_bytes: of the key-value cache, per token.

    Returns:
        The points; and notes on those that were left out, and why.
    """
    generator = torch.Generator().manual_seed(seed)
    found, notes = [], []
    points = [(length, batch) for length in sorted(grid.prompts) for batch in sorted(grid.batches)]
    for k, (length, batch) in enumerate(points):
        progress(k / len(points), f"speed with prompts of {length}, batches of {batch}")
        why_not = _why_not(session, grid, length, batch, cache_bytes)
        if why_not is None:
            found.append(_point(session, grid, length, batch, generator))
        else:
            notes.append(f"speed with prompts of {length}, batches of {batch}: {why_not}")
    return found, notes


def _why_not(
    session: Session, grid: SpeedGrid, length: int, batch: int, cache_bytes: float
) -> str | None:
    if length + grid.decode_tokens > session.context:
        return f"left out, the model's context is {session.context}"
    logits = batch * length * session.vocabulary * _LOGIT_BYTES
    needed = logits + batch * (length + grid.decode_tokens) * cache_bytes
    free = _free(session.device)
    if needed > free / 2:
        return f"left out, it may take {human_bytes(needed)}, and {human_bytes(free)} are free"
    return None


def _free(device: str) -> float:
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    return float(psutil.virtual_memory().available)


def _point(
    session: Session, grid: SpeedGrid, length: int, batch: int, generator: torch.Generator
) -> SpeedPoint:
    def once() -> tuple[float, float]:
        prompt = prompts(session, batch, length, generator).to(session.device)
        return timed(session, prompt, grid.decode_tokens)

    once()
    times = Times()
    repeat(
        lambda: times.add(once()),
        lambda: times.tight,
        at_least=_AT_LEAST,
        budget_s=grid.seconds,
    )
    steps = [seconds / grid.decode_tokens for seconds in times.decode]  # a step: one token per row
    return SpeedPoint(
        prompt_tokens=length,
        batch=batch,
        decode_tokens=grid.decode_tokens,
        n=len(steps),
        prefill=timing(times.prefill, tokens=batch * length),
        decode=timing(steps, tokens=batch),
        tight=times.tight,
        how=machine_words(session.device),
    )


def timing(seconds: list[float], *, tokens: int) -> Timing:
    """What passes took that handle `tokens` each."""
    ms = [s * 1e3 for s in seconds]
    interval = paired_bootstrap_ci(ms, ms, statistic=lambda a, _: float(np.median(a)), seed=0)
    return Timing(
        median_ms=interval.value,
        low_ms=interval.low,
        high_ms=interval.high,
        p90_ms=float(np.quantile(ms, 0.9)),
        tokens_per_s=tokens / (interval.value / 1e3),
    )
