"""The next token from logits: the likeliest, or one drawn from the likeliest ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from paredown.runtimes.serving.requests import Ask


@dataclass(frozen=True)
class Picked:
    """A token, with what was asked to be told about its place.

    Attributes:
        logprob: natural, of the model itself, whatever the temperature; None: not asked.
        top: likeliest tokens with theirs, the likeliest first.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@final
class Sampler:
    """Picks the tokens of one answer; the same seed and logits give the same tokens."""

    def __init__(self, ask: Ask) -> None:
        self._temperature, self._top_p, self._top = ask.temperature, ask.top_p, ask.top
        self._random = np.random.default_rng(None if ask.seed is None else ask.seed % (1 << 63))

    def pick(self, logits: Any) -> Picked:
        """One token from (vocabulary,) float32 logits."""
        token = int(logits.argmax()) if self._temperature == 0 else self._draw(logits)
        if self._top is None:
            return Picked(token)
        logprobs = log_softmax(logits)
        best = np.argpartition(-logprobs, min(self._top, len(logprobs) - 1))[: self._top]
        best = best[np.argsort(-logprobs[best], kind="stable")]
        top = tuple((int(i), float(logprobs[i])) for i in best)
        return Picked(token, float(logprobs[token]), top)

    def _draw(self, logits: Any) -> int:
        chances = np.exp(log_softmax(logits.astype(np.float64) / self._temperature))
        if self._top_p < 1.0:
            order = np.argsort(-chances, kind="stable")
            # The fewest likeliest tokens whose chances reach top_p together (arXiv:1904.09751).
            behind = np.cumsum(chances[order]) - chances[order]
            chances[order[behind >= max(self._top_p, 1e-9)]] = 0.0
        return int(self._random.choice(len(chances), p=chances / chances.sum()))


def log_softmax(logits: Any) -> Any:
    """(vocabulary,) float64."""
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())
