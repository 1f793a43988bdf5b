"""Perplexity, next-token accuracy, KL to the base model and top-1 agreement.

Exact KL needs the base model's whole distribution for every token. Keeping logits would take
gigabytes, so the base model's *final hidden states* are cached instead (vocabulary / width times
smaller) and the logits are computed from them again, one window at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from paredown.analysis.statistics import clustered_ratio_stderr
from paredown.errors import DivergedError, MethodError
from paredown.ops.divergence import score_tokens
from paredown.ops.readout import Readout
from paredown.runtimes.packages import open_model
from paredown.runtimes.registry import engine
from paredown.runtimes.session import Session
from paredown.spec.progress import Progress, unheard
from paredown.spec.result import Measurement
from paredown.spec.target import Device, Stream
from paredown.spec.units import Unit
from paredown.store.cache import Cache
from paredown.store.content import code, model_hash

_CODE = 2
"""Of the base's outputs: goes up when the same model and tokens give others."""
_PASS = 0.8
"""Share of the time that a pass over the blocks takes; the rest is the head."""
_REPRODUCES = 1e-3
"""Largest KL at which logits recomputed from hidden states count as the same."""


@dataclass
class _Sums:
    """Per-window sums of token scores; one list entry per window."""

    tokens: list[int]
    nll: list[float]
    more: list[float]
    """Rise of the negative log-likelihood over the base's."""
    right: list[float]
    kl: list[float]
    agree: list[float]


class Outputs(Protocol):
    """What a model is compared with, window by window."""

    def logits(self, window: int) -> Tensor:
        """(length - 1, vocabulary) float32 for one evaluation window; asked for in their order."""


class BaseOutputs:
    """The base model's outputs on the evaluation windows: made once, then read from the cache."""

    def __init__(
        self,
        base: Path,
        *,
        tokens: Tensor,
        tokens_hash: str,
        cache: Cache,
        device: Device,
        runtime: str = "torch",
        trust_remote_code: bool = False,
        stream: Stream = "never",
        progress: Progress = unheard,
    ) -> None:
        key = {
            **code(_CODE), "model": model_hash(base), "tokens": tokens_hash, "device": device,
        }  # fmt: skip
        if runtime != "torch":  # the base is compared in the engine that serves
            key["runtime"] = runtime
        path = cache.get_or_put(
            "base-outputs",
            key,
            ".safetensors",
            lambda p: _write_base(
                lambda: open_model(
                    engine(runtime),
                    base,
                    device=device,
                    trust_remote_code=trust_remote_code,
                    stream=stream,
                ),
                tokens,
                p,
                progress,
            ),
        )
        self._file = safe_open(path, framework="pt", device=device)
        names = set(self._file.keys())
        self._readout: Readout | None = None
        if "head" in names:
            scale, cap = (float(number) for number in self._file.get_tensor("post"))
            bias = self._file.get_tensor("bias") if "bias" in names else None
            self._readout = Readout(self._file.get_tensor("head"), bias, scale, cap)

    def logits(self, window: int) -> Tensor:
        """(length - 1, vocabulary) float32 for one evaluation window."""
        outputs: Tensor = self._file.get_tensor(f"window.{window}")
        return outputs.float() if self._readout is None else self._readout.logits(outputs)


def _write_base(
    open_base: Callable[[], Session], tokens: Tensor, path: Path, progress: Progress
) -> None:
    """Run the base over all windows; keep hidden states, or logits where the engine shows none."""
    session = open_base()
    session.for_many_tokens()
    session.told = lambda share, message: progress(_PASS * share, f"what the base says, {message}")
    readout = session.readout
    if readout is not None and not _reproduces(session, readout, tokens[:1]):
        readout = None
    stored: dict[str, Tensor] = {}
    outputs = (
        ((logits.half(), logits) for logits in session.logits(tokens))
        if readout is None
        else session.hidden(tokens)
    )
    for i, (kept, logits) in enumerate(outputs):
        if not torch.isfinite(logits).all():
            raise MethodError("the base model's logits are not finite: its weights are damaged")
        stored[f"window.{i}"] = kept.cpu()
        done = _behind_pass(session, (i + 1) / len(tokens))
        progress(done, f"what the base says, window {i + 1} of {len(tokens)}")
    if readout is not None:
        stored["head"] = readout.weight.detach().cpu().clone()
        stored["post"] = torch.tensor([readout.scale, readout.cap])
        if readout.bias is not None:
            stored["bias"] = readout.bias.detach().cpu().clone()
    save_file({k: v.contiguous() for k, v in stored.items()}, path)


def _behind_pass(session: Session, share: float) -> float:
    """Share of the work that is done with a share of the windows; a session that is not whole has
    run all of them through its blocks before."""
    return share if session.whole else _PASS + (1 - _PASS) * share


def _reproduces(session: Session, readout: Readout, window: Tensor) -> bool:
    """Whether logits come out of hidden states as the model computes them, on (1, length) tokens.

    A family may do more behind its last layer than is known here.
    """
    hidden, logits = next(session.hidden(window))
    again = readout.logits(hidden).log_softmax(-1)
    return bool((again - logits.float().log_softmax(-1)).abs().max() < _REPRODUCES)


@torch.no_grad()
def measure_quality(
    session: Session,
    tokens: Tensor,
    base: Outputs | None,
    *,
    protocol: str,
    progress: Progress = unheard,
) -> list[Measurement]:
    """Perplexity, accuracy, and against `base` KL and top-1 agreement, on (count, length) tokens.

    The tokens may be the beginnings of the windows that `base` was computed on.

    Raises:
        DivergedError: logits that are not finite.
    """
    sums = _Sums([], [], [], [], [], [])
    session.told = lambda share, message: progress(_PASS * share, f"quality, {message}")
    for i, (window, logits) in enumerate(zip(tokens, session.logits(tokens), strict=True)):
        if not torch.isfinite(logits).all():
            raise DivergedError(f"logits of window {i} are not finite")
        scores = score_tokens(
            logits,
            window[1:].to(logits.device),
            None if base is None else base.logits(i)[: len(logits)],
        )
        sums.tokens.append(len(window) - 1)
        sums.nll.append(float(scores.nll.sum()))
        sums.right.append(float(scores.right.sum()))
        if scores.kl is not None and scores.base_nll is not None and scores.agree is not None:
            sums.kl.append(float(scores.kl.sum()))
            sums.more.append(float((scores.nll - scores.base_nll).sum()))
            sums.agree.append(float(scores.agree.sum()))
        done = _behind_pass(session, (i + 1) / len(tokens))
        progress(done, f"quality, window {i + 1} of {len(tokens)}")
    length = tokens.shape[1]
    how = (
        f"{protocol}; {len(tokens)} windows of {length} tokens without overlap, "
        f"{sum(sums.tokens)} scored tokens; standard error over windows"
    )
    found = [_exponential("perplexity", sums.nll, sums.tokens, Unit.PERPLEXITY, how)]
    if sums.more:
        paired = f"paired with the base token by token; {how}"
        found.append(_exponential("perplexity_ratio", sums.more, sums.tokens, Unit.RATIO, paired))
    for name, values, unit, lower in (
        ("accuracy", sums.right, Unit.FRACTION, False),
        ("kl", sums.kl, Unit.NATS_PER_TOKEN, True),
        ("top1_agreement", sums.agree, Unit.FRACTION, False),
    ):
        if values:
            estimate = clustered_ratio_stderr(values, sums.tokens)
            found.append(
                Measurement(
                    name=name,
                    value=estimate.value,
                    unit=unit,
                    n=estimate.n,
                    stderr=estimate.stderr,
                    lower_is_better=lower,
                    source="measured",
                    how=how,
                )
            )
    return found


def _exponential(
    name: str, sums: list[float], tokens: list[int], unit: Unit, how: str
) -> Measurement:
    """exp of a mean per token; its standard error by the delta method."""
    mean = clustered_ratio_stderr(sums, tokens)
    value = float(np.exp(mean.value))
    return Measurement(
        name=name,
        value=value,
        unit=unit,
        n=mean.n,
        stderr=None if mean.stderr is None else mean.stderr * value,  # d exp(x) = exp(x) dx
        lower_is_better=True,
        source="measured",
        how=how,
    )
