"""Prefill and decode latency of a model as it is loaded, alone and in turns with its base."""

from __future__ import annotations

import numpy as np
import torch

from paredown.analysis.statistics import median_spread, paired_bootstrap_ci, quantile_spread
from paredown.evaluate.timing import (
    Times,
    is_tight,
    machine_words,
    prompts,
    repeat,
    timed,
)
from paredown.runtimes.session import Session
from paredown.spec.result import Measurement
from paredown.spec.run import EvaluateConfig
from paredown.spec.units import Unit

_P90 = 0.9


@torch.inference_mode()
def measure_latency(
    session: Session, config: EvaluateConfig, *, seed: int = 0
) -> list[Measurement]:
    """Milliseconds per prompt token (prefill) and per generated token (decode), batch 1.

    After a warm-up prompts of random tokens are read, each decoded greedily with the key-value
    cache: `config.repeats` of them, and more until the medians are known to 5 % or
    `config.repeat_s` has passed. Reported are medians and 90 % quantiles over repeats.
    """
    generator = torch.Generator().manual_seed(seed)

    def once() -> tuple[float, float]:
        prompt = prompts(session, 1, config.prompt_tokens, generator)
        return timed(session, prompt.to(session.device), config.decode_tokens)

    once()  # warms up
    times = Times()
    repeat(
        lambda: times.add(once()),
        lambda: times.tight,
        at_least=config.repeats,
        budget_s=config.repeat_s,
    )
    how = (
        f"{len(times.decode)} repeats after a warm-up, batch 1, prompt {config.prompt_tokens}, "
        f"decode {config.decode_tokens}, {machine_words(session.device)}"
    )
    return [
        *_latencies("decode_latency", times.decode, config.decode_tokens, how),
        *_latencies("prefill_latency", times.prefill, config.prompt_tokens, how),
    ]


@torch.inference_mode()
def measure_speedup(
    session: Session, base: Session, config: EvaluateConfig, *, seed: int = 0
) -> list[Measurement]:
    """Speed of `session` relative to `base`, decoding and reading prompts, measured in turns.

    Both are in this process and take turns, so that whatever slows the machine slows both. The
    ratio is taken pair by pair; reported are its median, the median's standard error and interval.
    """
    generator = torch.Generator().manual_seed(seed)
    n_decode = max(config.decode_tokens // 2, 4)

    def once() -> tuple[float, float]:
        prompt = prompts(session, 1, config.prompt_tokens, generator).to(session.device)
        mine = timed(session, prompt, n_decode)
        reference = timed(base, prompt, n_decode)
        return reference[0] / mine[0], reference[1] / mine[1]

    once()  # warms up both
    ratios = Times()
    repeat(
        lambda: ratios.add(once()),
        lambda: is_tight(ratios.decode),
        at_least=config.repeats,
        budget_s=config.repeat_s,
    )
    how = (
        f"base and artifact in turns, {len(ratios.decode)} pairs after a warm-up, prompt "
        f"{config.prompt_tokens}, {n_decode} tokens, {machine_words(session.device)}; "
        "median of the ratios"
    )
    return [
        _ratio("speedup", ratios.decode, f"decode of {how}"),
        _ratio("prefill_speedup", ratios.prefill, f"prefill of {how}"),
    ]


def _ratio(name: str, ratios: list[float], how: str) -> Measurement:
    spread = median_spread(ratios)
    # Of one sample: the statistic does not look at the second.
    interval = paired_bootstrap_ci(
        ratios, ratios, statistic=lambda a, _: float(np.median(a)), seed=0
    )
    return Measurement(
        name=name,
        value=spread.value,
        unit=Unit.RATIO,
        n=spread.n,
        stderr=spread.stderr,
        low=interval.low,
        high=interval.high,
        lower_is_better=False,
        source="measured",
        how=how,
    )


def _latencies(name: str, seconds: list[float], tokens: int, how: str) -> list[Measurement]:
    """Median and 90 % quantile, per token."""
    values = [s * 1e3 / tokens for s in seconds]
    found = (
        (name, median_spread(values), f"median of {how}"),
        (f"{name}_p90", quantile_spread(values, _P90), f"90 % quantile of {how}"),
    )
    return [
        Measurement(
            name=called,
            value=spread.value,
            unit=Unit.MS_PER_TOKEN,
            n=spread.n,
            stderr=spread.stderr,
            lower_is_better=True,
            source="measured",
            how=what,
        )
        for called, spread, what in found
    ]
