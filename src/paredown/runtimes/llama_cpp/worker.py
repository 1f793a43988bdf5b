"""llama.cpp's own process: `python -m paredown.runtimes.llama_cpp.worker`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from paredown.runtimes.llama_cpp.library import (
    Context,
    LibraryError,
    Model,
    find_library,
    open_library,
)
from paredown.runtimes.worker import BATCH, Answer, ReadingWorker, run

_ROOM = 256
"""Contexts are made for multiples of so many tokens, and for as many more than are asked for."""


class LlamaWorker(ReadingWorker):
    """One GGUF file and what was read with it."""

    def __init__(self, answers: BinaryIO) -> None:
        super().__init__(answers)
        self._model: Model | None = None
        self._context: Context | None = None
        self._threads = 1
        self._length = 0
        self._states = _States(self)

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

    def begin(self, tokens: int) -> None:
        self._states.park()
        self.context(tokens, 1).clear()
        self._length = 0

    def read(self, ids: Sequence[int], *, keep: int) -> Any:
        start, wanted = self._length, range(len(ids) - keep, len(ids))
        self._length += len(ids)
        context = self.context(self._length, 1)
        return context.read([(t, start + i, 0) for i, t in enumerate(ids)], wanted)

    def cut(self, length: int) -> None:
        self.context(length, 1).forget(0, length)
        self._length = length

    def text(self, prompt: Sequence[int], written: Sequence[int]) -> str:
        return b"".join(map(self.model.piece, written)).decode(errors="replace")

    def do_load(self, path: str, threads: int, vocab_only: bool = False) -> Answer:
        self._threads = threads
        self._model = Model(open_library(find_library()), Path(path), vocab_only=vocab_only)
        model = self._model
        self.vocabulary = model.vocabulary
        return {
            "vocabulary": model.vocabulary,
            "context": model.trained_context,
            "weights": 0 if vocab_only else model.nbytes,
            "ends": model.ends,
        }

    def do_tokenize(self, texts: list[str]) -> Answer:
        """Token ids of texts, as `ids`."""
        return {"ids": [self.model.tokenize(text, special=True) for text in texts]}

    def do_cache_bytes(self) -> Answer:
        """From the states behind two lengths."""
        sizes = []
        for length in (16, 48):
            self.begin(48)
            self.read([0] * length, keep=0)
            sizes.append(len(self.context(48, 1).snapshot(0)))
        return {"bytes": (sizes[1] - sizes[0]) / 32}

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

    def __init__(self, worker: LlamaWorker) -> None:
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


if __name__ == "__main__":
    run(LlamaWorker)
