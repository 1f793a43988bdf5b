"""What runs in an engine's own process: requests read line by line, answered line by line.

A request is a line of JSON; so is an answer, and some are followed by raw numbers. Whatever the
engine logs goes to standard error, which the parent keeps. The process ends when its input does, so
it never outlives its parent. No torch: what it takes is the memory of serving.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, ClassVar

import numpy as np

BATCH = 512
"""Tokens that are read at once, at most."""
_BEAT_S = 1.0
"""So often it says at most that it is still at work."""
_OUTPUT_BYTES = 128 << 20
"""Logits that are computed at once, at most."""

Answer = dict[str, Any]


class EngineError(Exception):
    """The engine cannot do what was asked; the message says why."""


class NotFiniteError(Exception):
    """The model answers with NaN or infinity."""


class Worker(ABC):
    """One model, and what is asked of it."""

    errors: ClassVar[tuple[type[Exception], ...]] = (EngineError,)
    """What is raised where the engine cannot do what was asked; anything else is a bug."""
    vocabulary: int
    """Number of token ids; known once a model is loaded."""

    def __init__(self, answers: BinaryIO) -> None:
        self._answers = answers
        self._said = time.monotonic()

    @abstractmethod
    def do_load(self, path: str, threads: int) -> Answer:
        """Load a model: its `vocabulary`, `context`, bytes of `weights`, and `ends` of texts."""

    @abstractmethod
    def do_cache_bytes(self) -> Answer:
        """What a token takes in the key-value cache, as `bytes`."""

    @abstractmethod
    def do_prefill(self, rows: list[list[int]]) -> Answer:
        """Read rows of equal length; the number of the `state` behind them."""

    @abstractmethod
    def do_fork(self, state: int) -> Answer:
        """The number of a copy."""

    @abstractmethod
    def do_decode(self, state: int, count: int) -> Answer:
        """Read `count` greedy tokens in every row; the state is used up."""

    @abstractmethod
    def do_drop(self, states: list[int]) -> Answer:
        """Forget states."""

    @abstractmethod
    def do_logits(self, ids: list[int]) -> Answer:
        """Logits behind every token, in parts that are told as they are there."""

    @abstractmethod
    def do_score(
        self, prefix: list[int], branches: list[list[int]], targets: list[list[int]], top: int
    ) -> Answer:
        """Log-likelihoods of answers behind what they share; see `Row` for the three lists."""

    @abstractmethod
    def do_generate(
        self, prompt: list[int], stops: list[str], ends: list[int], max_tokens: int, top: int
    ) -> Answer:
        """Greedy text behind a prompt."""

    # --- The conversation -------------------------------------------------------------------------

    def serve(self, requests: BinaryIO) -> None:
        """Answer until there are no more requests."""
        for line in requests:
            request = json.loads(line)
            try:
                answer = getattr(self, f"do_{request.pop('do')}")(**request)
            except NotFiniteError as error:
                answer = {"error": str(error), "diverged": True}
            except self.errors as error:
                answer = {"error": str(error)}
            self._say(answer)

    def beat(self) -> None:
        """Tell the parent, now and then, that a long computation goes on."""
        if time.monotonic() - self._said > _BEAT_S:
            self._say({"beat": True})

    def _say(self, answer: Answer, numbers: Any = None) -> None:
        if numbers is not None:
            answer["nbytes"] = numbers.nbytes
        self._answers.write(json.dumps(answer).encode() + b"\n")
        if numbers is not None:
            self._answers.write(np.ascontiguousarray(numbers).data)
        self._answers.flush()
        self._said = time.monotonic()


class ReadingWorker(Worker):
    """One whose engine is led token by token: what is asked is answered by reading on."""

    @abstractmethod
    def begin(self, tokens: int) -> None:
        """Begin a new sequence, with room for so many tokens; states are kept."""

    @abstractmethod
    def read(self, ids: Sequence[int], *, keep: int) -> Any:
        """Read at most `BATCH` tokens behind the sequence.

        Returns:
            (keep, vocabulary) float32 logits behind the last `keep` of them; None for none. They
            may be overwritten by the next call.
        """

    @abstractmethod
    def cut(self, length: int) -> None:
        """Forget what was read behind the first `length` tokens of the sequence."""

    @abstractmethod
    def text(self, prompt: Sequence[int], written: Sequence[int]) -> str:
        """The text that tokens add to a prompt."""

    def do_logits(self, ids: list[int]) -> Answer:
        self.begin(len(ids))
        for part in self._parts(ids, keep=len(ids)):
            self._say({"part": True}, part)
        return {}

    def do_score(
        self, prefix: list[int], branches: list[list[int]], targets: list[list[int]], top: int
    ) -> Answer:
        self.begin(len(prefix) + max(map(len, branches)))
        # The first target of an answer may be predicted within the prefix.
        kept = max(0, *(len(t) - len(b) for t, b in zip(targets, branches, strict=True)))
        head = self._feed(prefix, keep=kept)
        answers = []
        for branch, wanted in zip(branches, targets, strict=True):
            tail = self._feed(branch, keep=min(len(branch), len(wanted)))
            if branch:
                self.cut(len(prefix))
            rows = [part for part in (head, tail) if part is not None]
            logits = np.concatenate(rows)[-len(wanted) :]
            answers.append(scored(logits, wanted, top))
        return {"answers": answers}

    def do_generate(
        self, prompt: list[int], stops: list[str], ends: list[int], max_tokens: int, top: int
    ) -> Answer:
        self.begin(len(prompt) + max_tokens)
        logits = self._feed(prompt, keep=1)[-1]
        following, written = likeliest(logits, top), []
        told = [stop for stop in stops if stop]
        text = None
        for _ in range(max_tokens):
            _check_finite(logits)
            token = int(logits.argmax())
            if token in ends:
                break
            written.append(token)
            if told and (text := before_stop(self.text(prompt, written), told)) is not None:
                break
            logits = self._feed([token], keep=1)[-1]
        return {
            "text": self.text(prompt, written) if text is None else text,
            "next": following,
        }

    def _feed(self, ids: Sequence[int], *, keep: int) -> Any:
        """A copy of the logits (keep, vocabulary) behind the last `keep` tokens; None for none."""
        parts = [part.copy() for part in self._parts(ids, keep=keep)]
        return np.concatenate(parts) if parts else None

    def _parts(self, ids: Sequence[int], *, keep: int) -> Iterator[Any]:
        step = max(1, min(BATCH, _OUTPUT_BYTES // (4 * self.vocabulary))) if keep else BATCH
        first = len(ids) - keep
        for at in range(0, len(ids), step):
            part = ids[at : at + step]
            found = self.read(part, keep=len(part) - min(len(part), max(first - at, 0)))
            self.beat()
            if found is not None:
                yield found


def run(worker: type[Worker]) -> None:
    """Serve standard input and output, which nothing else may write to."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the engine prints belongs to the log
    # Ctrl-C is the parent's to answer: it ends this process in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker(answers).serve(sys.stdin.buffer)


_BEHIND = 64
"""Tokens of a prompt with which its continuation is decoded."""


def text_behind(
    decode: Callable[[list[int]], str], prompt: Sequence[int], written: Sequence[int]
) -> str:
    """The text that tokens add to a prompt, by a tokenizer that leaves special tokens out.

    Decoded together with the end of the prompt, of which the text is cut off: alone, a
    SentencePiece decoder takes the first blank away.
    """
    end = list(prompt[-_BEHIND:])
    whole, head = decode([*end, *written]), decode(end)
    # A prompt whose last token is half a character ends otherwise when the other half follows.
    pairs = enumerate(zip(whole, head, strict=False))
    shared = next((i for i, (a, b) in pairs if a != b), min(len(whole), len(head)))
    return whole[shared:]


def before_stop(text: str, stops: Sequence[str]) -> str | None:
    """The text before the first stop sequence; None while there is none."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else None


def scored(logits: Any, targets: Sequence[int], top: int) -> Answer:
    _check_finite(logits)
    logprobs = _log_softmax(logits)
    chosen = logprobs[np.arange(len(targets)), np.asarray(targets)]
    return {
        "loglikelihood": float(chosen.sum()),
        "greedy": bool((logits.argmax(-1) == np.asarray(targets)).all()),
        "next": likeliest(logits[0], top),
    }


def _log_softmax(logits: Any) -> Any:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def likeliest(logits: Any, top: int) -> tuple[list[int], list[float]]:
    logprobs = _log_softmax(logits[None])[0]
    count = min(top, len(logprobs))
    best = np.argpartition(-logprobs, count - 1)[:count]
    best = best[np.argsort(-logprobs[best], kind="stable")]
    return best.tolist(), [round(float(value), 5) for value in logprobs[best]]


def _check_finite(logits: Any) -> None:
    if not np.isfinite(logits).all():
        raise NotFiniteError("the model's logits are not finite")
