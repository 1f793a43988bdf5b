"""Prefill and decode latency of a model as it is loaded."""

from __future__ import annotations

import time
from typing import Any

import torch

from paredown.analysis.statistics import median_spread
from paredown.spec.result import Measurement
from paredown.spec.run import EvaluateConfig
from paredown.spec.units import Unit

_SHORT_PROMPT = 32
"""Prompt of the comparison with the base, which is about decoding."""


@torch.inference_mode()
def measure_latency(
    model: Any, config: EvaluateConfig, *, device: str, seed: int = 0
) -> list[Measurement]:
    """Milliseconds per prompt token (prefill) and per generated token (decode), batch 1.

    One warm-up, then `config.repeats` prompts of random tokens; each decodes greedily with the
    key-value cache. Reported are the medians over repeats.
    """
    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.get_input_embeddings().num_embeddings
    prefill, decode = [], []
    for _ in range(config.repeats + 1):
        prompt = torch.randint(0, vocabulary, (1, config.prompt_tokens), generator=generator)
        seconds = _one(model, prompt.to(device), config.decode_tokens, device)
        prefill.append(seconds[0] * 1e3 / config.prompt_tokens)
        decode.append(seconds[1] * 1e3 / config.decode_tokens)
    threads = torch.get_num_threads()
    how = (
        f"median of {config.repeats} repeats after a warm-up, batch 1, prompt "
        f"{config.prompt_tokens}, decode {config.decode_tokens}, {device}, {threads} threads, "
        "time.perf_counter"
    )
    return [
        _measurement("decode_latency", decode[1:], how),
        _measurement("prefill_latency", prefill[1:], how),
    ]


@torch.inference_mode()
def measure_speedup(
    model: Any, base: Any, config: EvaluateConfig, *, device: str, seed: int = 0
) -> Measurement:
    """Decode speed of `model` relative to `base`, measured in turns.

    Both are in this process and take turns, so that whatever slows the machine slows both. The
    ratio is taken pair by pair; reported are its median and the median's standard error.
    """
    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.get_input_embeddings().num_embeddings
    n_decode = max(config.decode_tokens // 2, 4)
    ratios = []
    for _ in range(config.repeats + 1):
        prompt = torch.randint(0, vocabulary, (1, _SHORT_PROMPT), generator=generator).to(device)
        _, mine = _one(model, prompt, n_decode, device)
        _, reference = _one(base, prompt, n_decode, device)
        ratios.append(reference / mine)
    spread = median_spread(ratios[1:])
    return Measurement(
        name="speedup",
        value=spread.value,
        unit=Unit.RATIO,
        n=spread.n,
        stderr=spread.stderr,
        lower_is_better=False,
        source="measured",
        how=(
            f"decode of base and artifact in turns, {config.repeats} pairs after a warm-up, "
            f"prompt {_SHORT_PROMPT}, {n_decode} tokens; median of the ratios"
        ),
    )


def _one(model: Any, prompt: torch.Tensor, n_decode: int, device: str) -> tuple[float, float]:
    start = _now(device)
    output = model(prompt, use_cache=True)
    token = output.logits[:, -1:].argmax(-1)
    middle = _now(device)
    for _ in range(n_decode):
        output = model(token, past_key_values=output.past_key_values, use_cache=True)
        token = output.logits[:, -1:].argmax(-1)
    return middle - start, _now(device) - middle


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _measurement(name: str, values: list[float], how: str) -> Measurement:
    spread = median_spread(values)
    return Measurement(
        name=name,
        value=spread.value,
        unit=Unit.MS_PER_TOKEN,
        n=spread.n,
        stderr=spread.stderr,
        lower_is_better=True,
        source="measured",
        how=how,
    )
