"""Text that a model writes itself, to calibrate and to evaluate on (arXiv:2410.17170)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paredown.errors import DataError
from paredown.runtimes.torch.load import load_dense
from paredown.spec.progress import Progress

_SELF_BATCH = 16
_SELF_LENGTH = 256
_SELF_HOT_TOKENS = 8
"""First tokens of self-written text are sampled hotter, for variety."""


@torch.no_grad()
def write_texts(
    folder: Path, tokens: int, seed: int, trust_remote_code: bool, progress: Progress | None
) -> Tensor:
    """At least `tokens` ids: texts sampled from BOS, repetitive ones dropped, one after another."""
    model = load_dense(folder, trust_remote_code=trust_remote_code)
    if model.dtype == torch.bfloat16 and str(model.device) == "cpu":
        model = model.float()
    start = model.config.bos_token_id
    start = 0 if start is None else start
    generator = torch.Generator().manual_seed(seed)
    kept: list[Tensor] = []
    have = 0
    for _ in range(100):
        count = min(-(-(tokens - have) // _SELF_LENGTH), _SELF_BATCH)
        report = partial(_report_writing, progress, have, max(tokens, have + count * _SELF_LENGTH))
        texts = _sample_batch(model, start, count, generator, report)
        good = [t for t in texts if _is_varied(t)]
        kept += good
        have += sum(len(t) for t in good)
        if have >= tokens:
            return torch.cat(kept)
    raise DataError("the model writes only repetitive text; use another text source than 'self'")


def _report_writing(progress: Progress | None, have: int, wanted: int, written: int) -> None:
    """Say how far the text is: `have` tokens kept so far, `written` ones not judged yet."""
    if progress is not None:
        done = have + written
        progress(done / wanted, f"the model writes its text: {done} of {wanted} tokens")


def _sample_batch(
    model: Any, start: int, count: int, generator: torch.Generator, report: Callable[[int], None]
) -> list[Tensor]:
    ids = torch.full((count, 1), start)
    step, past = ids, None
    for position in range(_SELF_LENGTH - 1):
        output = model(step, past_key_values=past, use_cache=True)
        past = output.past_key_values
        temperature = 1.5 if position < _SELF_HOT_TOKENS else 1.0
        chances = (output.logits[:, -1].float() / temperature).softmax(-1)
        step = torch.multinomial(chances, 1, generator=generator)
        ids = torch.cat((ids, step), dim=1)
        report(ids.numel())
    return list(ids)


def _is_varied(ids: Tensor) -> bool:
    """Whether fewer than half of a text's 4-grams are repeats of earlier ones."""
    grams = [tuple(ids[i : i + 4].tolist()) for i in range(len(ids) - 3)]
    return len(set(grams)) > len(grams) / 2
