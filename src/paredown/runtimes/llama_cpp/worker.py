"""The engine's own process: `python -m paredown.runtimes.llama_cpp.worker`.

It reads requests, a line of JSON each, and answers with lines of JSON, some of them followed by raw
numbers. Whatever llama.cpp logs goes to standard error, which the parent keeps. It ends when its
input does, so it never outlives its parent. No torch: what it takes is the memory of serving.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from paredown.runtimes.llama_cpp.library import (
    BATCH,
    Context,
    LibraryError,
    Model,
    find_library,
    open_library,
)

_BEAT_S = 1.0
"""So often it says at most that it is still at work."""
_ROOM = 256
"""Contexts are made for multiples of so many tokens, and for as many more than are asked for."""
_OUTPUT_BYTES = 128 << 20
"""Logits that are computed at once, at most."""

Answer = dict[str, Any]


class NotFiniteError(Exception):
    """The model answers with NaN or infinity."""


class Worker:
    """One model and what it has read."""

    def __init__(self, answers: BinaryIO) -> None:
        self._answers = answers
        self._said = time.monotonic()
        self._model: Model | None = None
        self._context: Context | None = None
        self._threads = 1
        self._states = _States(self)

    def serve(self, requests: BinaryIO) -> None:
        """Answer until there are no more requests."""
        for line in requests:
            request = json.loads(line)
            try:
                answer = getattr(self, f"do_{request.pop('do')}")(**request)
            except (LibraryError, NotFiniteError) as error:
                answer = {"error": str(error), "diverged": isinstance(error, NotFiniteError)}
            self._say(answer)

    def beat(self) -> None:
        """Tell the parent, now and then, that a long computation goes on."""
        if time.monotonic() - self._said > _BEAT_S:
            self._say({"beat": True})

    def _say(self, answer: dict[str, Any], numbers: Any = None) -> None:
        if numbers is not None:
            answer["nbytes"] = numbers.nbytes
        self._answers.write(json.dumps(answer).encode() + b"\n")
        if numbers is not None:
            self._answers.write(np.ascontiguousarray(numbers).data)
        self._answers.flush()
        self._said = time.monotonic()

    @property
    def model(self) -> Model:
        """The loaded one."""
        if self._model is None:
            raise LibraryError("no model is loaded")
        return self._model

    def context(self, tokens: int, rows: int) -> Context:
        """A context with room for `rows` sequences of so many tokens; empty if it is a new one."""
        held = self._context
        if held is not None and held.rows == rows and held.tokens >= tokens:
            return held
        if held is not None:
            held.close()
        room = (tokens + 2 * _ROOM - 1) // _ROOM * _ROOM
        self._context = self.model.context(room, rows, self._threads)
        return self._context

    def feed(self, context: Context, ids: Sequence[int], start: int, *, keep: int = 0) -> Any:
        """Read tokens behind `start` others, in a single sequence.

        Returns:
            A copy of the logits (keep, vocabulary) behind the last `keep` tokens; None for none.
        """
        parts = [part.copy() for part in self._parts(context, ids, start, keep=keep)]
        return np.concatenate(parts) if parts else None

    def _parts(
        self, context: Context, ids: Sequence[int], start: int, *, keep: int
    ) -> Iterator[Any]:
        step = max(1, min(BATCH, _OUTPUT_BYTES // (4 * self.model.vocabulary))) if keep else BATCH
        first = len(ids) - keep
        for at in range(0, len(ids), step):
            part = ids[at : at + step]
            wanted = range(max(first - at, 0), len(part))
            found = context.read([(t, start + at + i, 0) for i, t in enumerate(part)], wanted)
            self.beat()
            if found is not None:
                yield found

    # --- What is asked ----------------------------------------------------------------------------

    def do_load(self, path: str, threads: int, vocab_only: bool) -> Answer:
        self._threads = threads
        self._model = Model(open_library(find_library()), Path(path), vocab_only=vocab_only)
        model = self._model
        return {
            "vocabulary": model.vocabulary,
            "context": model.trained_context,
            "weights": 0 if vocab_only else model.nbytes,
            "ends": model.ends,
        }

    def do_tokenize(self, texts: list[str]) -> Answer:
        return {"ids": [self.model.tokenize(text, special=True) for text in texts]}

    def do_cache_bytes(self) -> Answer:
        """Bytes of the cache per token, from the states behind two lengths."""
        self._states.park()
        sizes = []
        for length in (16, 48):
            context = self.context(48, 1)
            context.clear()
            self.feed(context, [0] * length, 0)
            sizes.append(len(context.snapshot(0)))
        return {"bytes": (sizes[1] - sizes[0]) / 32}

    def do_logits(self, ids: list[int]) -> Answer:
        """Logits behind every token, in parts that are told as they are there."""
        self._states.park()
        context = self.context(len(ids), 1)
        context.clear()
        for part in self._parts(context, ids, 0, keep=len(ids)):
            self._say({"part": True}, part)
        return {}

    def do_score(
        self, prefix: list[int], branches: list[list[int]], targets: list[list[int]], top: int
    ) -> Answer:
        """Log-likelihoods of answers behind what they share; see `Row` for the three lists."""
        self._states.park()
        longest = len(prefix) + max(map(len, branches))
        context = self.context(longest, 1)
        context.clear()
        # The first target of an answer may be predicted within the prefix.
        kept = max(0, *(len(t) - len(b) for t, b in zip(targets, branches, strict=True)))
        head = self.feed(context, prefix, 0, keep=kept)
        answers = []
        for branch, wanted in zip(branches, targets, strict=True):
            tail = self.feed(context, branch, len(prefix), keep=min(len(branch), len(wanted)))
            context.forget(0, len(prefix))
            rows = [part for part in (head, tail) if part is not None]
            logits = np.concatenate(rows)[-len(wanted) :]
            answers.append(_scored(logits, wanted, top))
        return {"answers": answers}

    def do_generate(
        self, prompt: list[int], stops: list[str], ends: list[int], max_tokens: int, top: int
    ) -> Answer:
        """Greedy text behind a prompt."""
        self._states.park()
        context = self.context(len(prompt) + max_tokens, 1)
        context.clear()
        logits = self.feed(context, prompt, 0, keep=1)[-1]
        following, at, text = _likeliest(logits, top), len(prompt), b""
        told = [stop.encode() for stop in stops if stop]
        for _ in range(max_tokens):
            _check_finite(logits)
            token = int(logits.argmax())
            if token in ends:
                break
            text += self.model.piece(token)
            cuts = [place for stop in told if (place := text.find(stop)) >= 0]
            if cuts:
                text = text[: min(cuts)]
                break
            logits = self.feed(context, [token], at, keep=1)[-1]
            at += 1
        return {"text": text.decode(errors="replace"), "next": following}

    def do_prefill(self, rows: list[list[int]]) -> Answer:
        return {"state": self._states.prefill(rows)}

    def do_fork(self, state: int) -> Answer:
        return {"state": self._states.fork(state)}

    def do_decode(self, state: int, count: int) -> Answer:
        self._states.decode(state, count)
        return {}

    def do_drop(self, states: list[int]) -> Answer:
        self._states.drop(states)
        return {}


class _State:
    """Behind a prompt of several rows: where it stands, and its cache where it is kept apart."""

    def __init__(self, tokens: list[int], length: int) -> None:
        self.tokens, self.length = tokens, length
        self.kept: list[bytes] | None = None


class _States:
    """States by number. One of them may be live: it is what the context holds."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._held: dict[int, _State] = {}
        self._live: int | None = None
        self._last = 0

    def prefill(self, rows: list[list[int]]) -> int:
        self.park()
        length = len(rows[0])
        context = self._worker.context(length, len(rows))
        context.clear()
        tokens = []
        for row, ids in enumerate(rows):
            for at in range(0, length, BATCH):
                part = [(token, at + i, row) for i, token in enumerate(ids[at : at + BATCH])]
                last = at + BATCH >= length
                logits = context.read(part, [len(part) - 1] if last else [])
                self._worker.beat()
            tokens.append(int(logits[0].argmax()))
        self._last += 1
        self._held[self._last] = _State(tokens, length)
        self._live = self._last
        return self._last

    def fork(self, state: int) -> int:
        held = self._of(state)
        self._keep(state)
        self._last += 1
        copy = self._held[self._last] = _State(list(held.tokens), held.length)
        copy.kept = held.kept
        return self._last

    def decode(self, state: int, count: int) -> None:
        """Read `count` greedy tokens in every row; the state is used up."""
        held, rows = self._of(state), range(len(self._of(state).tokens))
        if self._live != state:
            self.park()
        context = self._make_live(state, held.length + count)
        self._live = None
        del self._held[state]
        for i in range(count):
            at = held.length + i
            step = [(held.tokens[row], at, row) for row in rows]
            held.tokens = context.read(step, rows).argmax(-1).tolist()
            self._worker.beat()

    def park(self) -> None:
        """Keep the live state apart: the context is needed for something else."""
        if self._live is not None:
            self._keep(self._live)
            self._live = None

    def drop(self, states: list[int]) -> None:
        for state in states:
            self._held.pop(state, None)
            if self._live == state:
                self._live = None

    def _of(self, state: int) -> _State:
        if state not in self._held:
            raise LibraryError(f"state {state} was used up")
        return self._held[state]

    def _keep(self, state: int) -> None:
        held = self._of(state)
        if held.kept is None:
            context = self._worker.context(held.length, len(held.tokens))
            held.kept = [context.snapshot(row) for row in range(len(held.tokens))]

    def _make_live(self, state: int, tokens: int) -> Context:
        held, worker = self._of(state), self._worker
        before = worker.context(held.length, len(held.tokens)) if self._live == state else None
        if before is not None and before.tokens < tokens:
            self._keep(state)  # it does not fit, and a larger context begins empty
        context = worker.context(tokens, len(held.tokens))
        if context is not before and held.kept is not None:
            context.clear()
            for row, data in enumerate(held.kept):
                context.restore(row, data)
        return context


def _scored(logits: Any, targets: Sequence[int], top: int) -> dict[str, Any]:
    _check_finite(logits)
    logprobs = _log_softmax(logits)
    chosen = logprobs[np.arange(len(targets)), np.asarray(targets)]
    return {
        "loglikelihood": float(chosen.sum()),
        "greedy": bool((logits.argmax(-1) == np.asarray(targets)).all()),
        "next": _likeliest(logits[0], top),
    }


def _log_softmax(logits: Any) -> Any:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _likeliest(logits: Any, top: int) -> tuple[list[int], list[float]]:
    logprobs = _log_softmax(logits[None])[0]
    count = min(top, len(logprobs))
    best = np.argpartition(-logprobs, count - 1)[:count]
    best = best[np.argsort(-logprobs[best], kind="stable")]
    return best.tolist(), [round(float(value), 5) for value in logprobs[best]]


def _check_finite(logits: Any) -> None:
    if not np.isfinite(logits).all():
        raise NotFiniteError("the model's logits are not finite")


def main() -> None:
    """Serve standard input and output, which nothing else may write to."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what llama.cpp prints belongs to the log
    Worker(answers).serve(sys.stdin.buffer)


if __name__ == "__main__":
    main()
