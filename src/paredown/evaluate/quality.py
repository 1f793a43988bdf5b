"""Perplexity, next-token accuracy, KL to the base model and top-1 agreement.

Exact KL needs the base model's whole distribution for every token. Keeping logits would take
gigabytes, so the base model's *final hidden states* are cached instead (vocabulary / width times
smaller) and the logits are computed from them again, one window at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from paredown.analysis.statistics import clustered_ratio_stderr
from paredown.errors import DivergedError, MethodError
from paredown.ops.divergence import score_tokens
from paredown.runtimes.torch.load import is_packed, load_dense
from paredown.runtimes.torch.packed import dense_dtype
from paredown.spec.result import Measurement
from paredown.spec.units import Unit
from paredown.store.cache import Cache

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


class BaseOutputs:
    """The base model's outputs on the evaluation windows: made once, then read from the cache."""

    def __init__(
        self,
        base: Path,
        *,
        base_hash: str,
        tokens: Tensor,
        tokens_hash: str,
        cache: Cache,
        device: str,
        trust_remote_code: bool = False,
    ) -> None:
        key = {"version": 1, "model": base_hash, "tokens": tokens_hash, "device": device}
        self.device = device
        path = cache.get_or_put(
            "base-outputs",
            key,
            ".safetensors",
            lambda p: _write_base(base, tokens, p, device, trust_remote_code),
        )
        self._file = safe_open(path, framework="pt", device=device)
        names = set(self._file.keys())
        self._head = self._file.get_tensor("head") if "head" in names else None
        self._bias = self._file.get_tensor("bias") if "bias" in names else None
        post = self._file.get_tensor("post") if "post" in names else None
        self._post = (1.0, 0.0) if post is None else (float(post[0]), float(post[1]))

    def logits(self, window: int) -> Tensor:
        """(length - 1, vocabulary) float32 for one evaluation window."""
        outputs: Tensor = self._file.get_tensor(f"window.{window}")
        if self._head is None:
            return outputs.float()
        return _apply_head(outputs, self._head, self._bias, self._post)


def _apply_head(
    hidden: Tensor, head: Tensor, bias: Tensor | None, post: tuple[float, float]
) -> Tensor:
    """Logits from final hidden states: linear, scaled, soft-capped where the family does it."""
    logits = nn.functional.linear(
        hidden.float(), head.float(), None if bias is None else bias.float()
    )
    scale, cap = post
    logits = logits * scale
    return torch.tanh(logits / cap) * cap if cap else logits


@torch.no_grad()
def _write_base(
    base: Path, tokens: Tensor, path: Path, device: str, trust_remote_code: bool
) -> None:
    model = for_quality(
        load_dense(base, device=device, trust_remote_code=trust_remote_code), device
    )
    head = model.get_output_embeddings()
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda module, args: seen.append(args[0][0, :-1]))
    config = model.config.get_text_config()
    cap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    bias = getattr(head, "bias", None)
    stored: dict[str, Tensor] = {}
    for i, window in enumerate(tokens):
        logits = model(window[None].to(device), use_cache=False).logits[0, :-1]
        if not torch.isfinite(logits).all():
            raise MethodError("the base model's logits are not finite: its weights are damaged")
        if i == 0:
            again = _apply_head(seen[0], head.weight, bias, (scale, cap))
            error = (again.log_softmax(-1) - logits.float().log_softmax(-1)).abs().max()
            from_hidden = bool(error < _REPRODUCES)
        stored[f"window.{i}"] = seen[i].cpu() if from_hidden else logits.half().cpu()
        seen[i] = seen[i][:0]
    handle.remove()
    if from_hidden:
        stored["head"] = head.weight.detach().cpu().clone()
        stored["post"] = torch.tensor([scale, cap])
        if bias is not None:
            stored["bias"] = bias.detach().cpu().clone()
    save_file({k: v.contiguous() for k, v in stored.items()}, path)


def for_quality(model: Any, device: str) -> Any:
    """The model in the dtype in which many tokens are computed fastest.

    On a processor without bfloat16 of its own, dense 16-bit weights are widened to float32: the
    same weights, less rounding between layers. Quantized models compute as they are loaded.
    """
    widen = (
        dense_dtype(device) == torch.float32
        and getattr(model, "hf_quantizer", None) is None
        and not is_packed(model)
    )
    return model.float() if widen else model


@torch.no_grad()
def measure_quality(
    model: Any, tokens: Tensor, base: BaseOutputs | None, *, protocol: str, device: str
) -> list[Measurement]:
    """Perplexity, accuracy, and against `base` KL and top-1 agreement, on (count, length) tokens.

    The tokens may be the beginnings of the windows that `base` was computed on.

    Raises:
        DivergedError: logits that are not finite.
    """
    sums = _Sums([], [], [], [], [], [])
    for i, window in enumerate(tokens):
        logits = model(window[None].to(device), use_cache=False).logits[0, :-1]
        if not torch.isfinite(logits).all():
            raise DivergedError(f"logits of window {i} are not finite")
        scores = score_tokens(
            logits, window[1:].to(device), None if base is None else base.logits(i)[: len(logits)]
        )
        sums.tokens.append(len(window) - 1)
        sums.nll.append(float(scores.nll.sum()))
        sums.right.append(float(scores.right.sum()))
        if scores.kl is not None and scores.base_nll is not None and scores.agree is not None:
            sums.kl.append(float(scores.kl.sum()))
            sums.more.append(float((scores.nll - scores.base_nll).sum()))
            sums.agree.append(float(scores.agree.sum()))
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
        stderr=None if mean.stderr is None else mean.stderr * value,
        lower_is_better=True,
        source="measured",
        how=how,
    )
