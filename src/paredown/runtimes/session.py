"""An opened package: what is asked of an engine while a model is measured. Imports no torch.

Tensors are the currency, because every number is computed from them; an engine that answers with
other arrays wraps them (`torch.from_numpy` copies nothing).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from paredown.spec.progress import Progress, unheard
from paredown.spec.target import Device

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.ops.readout import Readout


@dataclass(frozen=True)
class Pair:
    """A prompt and what follows it, as token ids; both at least one."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


TOP = 64
"""How many of the likeliest next tokens a session tells: nearly all of the mass, a kilobyte."""


@dataclass(frozen=True)
class Likeliest:
    """The likeliest tokens after a prompt, up to `TOP` of them.

    Attributes:
        ids: of the tokens, the likeliest first.
        logprobs: of each, nats.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Scored:
    """What a model thinks of a continuation."""

    loglikelihood: float
    """Sum over its tokens, nats."""
    greedy: bool
    """Whether each of its tokens is the likeliest."""
    truncated: bool
    """Whether the context had to lose its beginning."""
    next: Likeliest | None = field(default=None, compare=False)
    """What may follow the context; None where the engine does not tell. No part of the score."""


@dataclass(frozen=True)
class Written:
    """What a model writes after a prompt."""

    text: str
    truncated: bool
    """Whether the prompt had to lose its beginning."""
    next: Likeliest | None = field(default=None, compare=False)
    """What may follow the prompt; None where the engine does not tell. No part of the text."""


def _quietly(rows: int, share: float) -> None:
    pass


class Session(ABC):
    """A loaded model, ready to be asked. Not safe for several threads."""

    device: Device
    whole: bool = True
    """Whether all of the model is held; if not, it can be judged, but not served or timed."""
    told: Progress = staticmethod(unheard)
    """What hears how far a pass is that takes long before its first answer."""
    notes: tuple[str, ...] = ()
    """What a user should know of how it was loaded, e.g. that a format brings no speed-up here."""

    # --- What it is -------------------------------------------------------------------------------

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of token ids that it takes."""

    @property
    @abstractmethod
    def context(self) -> int:
        """Tokens that it can see at once."""

    @property
    def pid(self) -> int:
        """The process whose memory is that of serving; this one, unless the engine has its own."""
        return os.getpid()

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids as the engine's own tokenizer makes them, special tokens as in a prompt."""

    @abstractmethod
    def weights_bytes(self) -> int:
        """Bytes of all weights as they are held, each once: scales and packed copies included."""

    @abstractmethod
    def cache_bytes_per_token(self) -> float:
        """Bytes that a token of context takes in the key-value cache; 0 where there is none."""

    # --- Quality ----------------------------------------------------------------------------------

    @abstractmethod
    def logits(self, windows: Tensor) -> Iterator[Tensor]:
        """Next-token logits of each window: (length - 1, vocabulary), any floating dtype.

        Up to a constant per position, which no measure depends on: an engine that gives
        log-probabilities yields those.

        Args:
            windows: (count, length) int64 token ids.
        """

    def logprobs(self, windows: Tensor) -> Iterator[Tensor]:
        """Next-token log-probabilities of each window: (length - 1, vocabulary) float32, nats."""
        for logits in self.logits(windows):
            yield logits.float().log_softmax(-1)

    @property
    def readout(self) -> Readout | None:
        """What makes logits of final hidden states, where the engine shows them; else None."""
        return None

    def hidden(self, windows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(hidden, logits) of each window: (length - 1, width) before `readout`, and behind it.

        Raises:
            NotImplementedError: `readout` is None.
        """
        raise NotImplementedError(f"{type(self).__name__} shows no hidden states")

    @abstractmethod
    def score(self, groups: Sequence[Sequence[Pair]]) -> Iterator[tuple[int, list[Scored]]]:
        """Score groups of pairs; those of a group share the beginning of their tokens.

        Yields:
            The index of a group, in any order, and the scores of its pairs in theirs.

        Raises:
            DivergedError: logits that are not finite.
        """

    def along(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, list[Likeliest]]]:
        """What may come at each token of continuations that are given, not written.

        An engine that tells it in one pass over a pair does better than this, which asks for every
        token anew.

        Yields:
            The index of a pair, in any order, and one entry per token of its continuation; none
            where the engine does not tell.

        Raises:
            DivergedError: logits that are not finite.
        """
        groups = [
            [
                Pair((*p.context, *p.continuation[:k]), (token,))
                for k, token in enumerate(p.continuation)
            ]
            for p in pairs
        ]
        for i, scored in self.score(groups):
            known = [s.next for s in scored if s.next is not None]
            yield i, known if len(known) == len(scored) else []

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        stops: Sequence[str],
        max_tokens: int,
        step: Callable[[int, float], None] = _quietly,
    ) -> Iterator[tuple[int, Written]]:
        """Continue prompts greedily until a stop sequence, the end of text, or `max_tokens`.

        Args:
            step: told after every token how many texts are being written, and which share of
                their longest possible length they have.

        Yields:
            The index of a prompt, in any order, and the text without the stop sequence.

        Raises:
            ConfigError: `max_tokens` leaves no room for a prompt.
            DivergedError: logits that are not finite.
        """

    @abstractmethod
    def for_many_tokens(self) -> None:
        """From now on compute many tokens as fast as possible: the same weights, another dtype.

        What is timed afterwards is not the model as it is served.
        """

    # --- Time -------------------------------------------------------------------------------------

    @abstractmethod
    def prefill(self, prompt: Tensor) -> Any:
        """Read (batch, length) token ids; the state from which `decode` goes on."""

    @abstractmethod
    def decode(self, state: Any, n_tokens: int) -> None:
        """Decode greedily `n_tokens` behind a state, which is used up."""

    @abstractmethod
    def fork(self, state: Any) -> Any:
        """A copy of a state, so that several decodings start behind one prompt."""

    @abstractmethod
    def close(self) -> None:
        """Give back the model and whatever else the engine holds; nothing can be asked then."""
