"""Requests worked on side by side: a slot each, a queue of bounded length, and what they cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Literal, final

import numpy as np

from paredown.runtimes.serving.model import Reader, Served, logits_behind
from paredown.runtimes.serving.requests import Ask, RequestError
from paredown.runtimes.serving.sampling import Picked, Sampler
from paredown.runtimes.serving.texts import Writing

_WAITING, _LEAST_WAITING = 2, 8
"""Requests that wait for each slot, and in all at least; the next one is refused with 429."""
Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        text: that became certain; may be empty.
        picked: the tokens behind it, those of characters that were not whole included.
        finish: why the answer ends here; None: it goes on.
        tokens: of the answer so far.
        error: what ended it instead.
    """

    text: str
    picked: tuple[Picked, ...] = ()
    finish: Finish | None = None
    tokens: int = 0
    error: str | None = None


@dataclass
class Job:
    """A request with its prompt, on its way.

    Attributes:
        tell: told of every piece, from the thread of a slot.
        cancelled: set when nobody waits for the answer any more.
    """

    ask: Ask
    ids: list[int]
    tell: Callable[[Piece], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    begun: float = field(default_factory=time.monotonic)


@dataclass
class Counts:
    """What `/metrics` tells; changed under the lock of `Slots`."""

    running: int = 0
    waiting: int = 0
    answered: int = 0
    failed: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    first_token_s: float = 0.0
    first_tokens: int = 0


@final
class Slots:
    """Threads that answer requests, one at a time each, with a sequence of their own."""

    def __init__(
        self, model: Served, *, slots: int, context: int, queue: int | None = None
    ) -> None:
        """Start the threads; they end with the process.

        Args:
            queue: requests that may wait; None: twice the slots, 8 at least.
        """
        self.model, self.count, self.context = model, slots, context
        self.queue = max(_LEAST_WAITING, _WAITING * slots) if queue is None else queue
        self.counts, self._lock = Counts(), threading.Lock()
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        for k in range(slots):
            threading.Thread(target=self._work, name=f"slot-{k}", daemon=True).start()

    def submit(self, job: Job) -> None:
        """Answer a request as soon as a slot is free.

        Raises:
            RequestError: the prompt is none of the model's, or too long; or too many wait.
        """
        n = len(job.ids)
        if not n:
            raise RequestError("prompt: it has no tokens")
        if n >= self.context:
            raise RequestError(
                f"prompt: {n} tokens, and the context is {self.context}",
                kind="context_length_exceeded",
            )
        if not all(0 <= token < self.model.vocabulary for token in job.ids):
            raise RequestError(f"prompt: token ids are 0 to {self.model.vocabulary - 1}")
        with self._lock:
            # A free slot takes what waits at once, so it may wait beside a full queue.
            free = self.count - self.counts.running
            if self.counts.waiting >= self.queue + free:
                self.counts.refused += 1
                raise RequestError(
                    f"{self.counts.waiting} requests wait already; try again later",
                    status=429, kind="overloaded_error",
                )  # fmt: skip
            self.counts.waiting += 1
        self._jobs.put(job)

    def snapshot(self) -> Counts:
        """The counts of this moment."""
        with self._lock:
            return Counts(**vars(self.counts))

    def _work(self) -> None:
        reader: Reader | None = None
        failures: tuple[type[Exception], ...] = (*self.model.errors, FloatingPointError)
        while True:
            job = self._jobs.get()
            self._count(waiting=-1, running=1)
            try:
                reader = reader or self.model.reader(self.context)
                reader.clear()
                self._answer(job, reader)
                self._count(answered=1)
            except failures as error:
                reader = None  # who knows what it has read
                self._count(failed=1)
                job.tell(Piece("", error=str(error) or type(error).__name__))
            finally:
                self._count(running=-1)

    def _answer(self, job: Job, reader: Reader) -> None:
        ask, model = job.ask, self.model
        room = self.context - len(job.ids)
        limit = room if ask.max_tokens is None else min(ask.max_tokens, room)
        sampler, writing = Sampler(ask), Writing(model.tokenizer, job.ids, ask.stops)
        fed: list[int] = job.ids
        pending: list[Picked] = []
        for n in range(1, limit + 1):
            if job.cancelled.is_set():
                return
            logits = logits_behind(reader, fed, model.vocabulary)
            _check(logits)
            picked = sampler.pick(logits)
            self._read(job, n)
            if picked.token in model.ends and not ask.ignore_ends:
                job.tell(Piece(writing.finish(), tuple(pending), "stop", n))
                return
            fed, text = [picked.token], writing.add(picked.token)
            pending.append(picked)
            if writing.stopped or n == limit:
                finish: Finish = "stop" if writing.stopped else "length"
                job.tell(Piece(text + writing.finish(), tuple(pending), finish, n))
                return
            if text:
                job.tell(Piece(text, tuple(pending), None, n))
                pending.clear()

    def _read(self, job: Job, n: int) -> None:
        """Count a token, and the prompt with the first one."""
        if n > 1:
            self._count(tokens=1)
            return
        waited = time.monotonic() - job.begun
        self._count(tokens=1, prompt_tokens=len(job.ids), first_tokens=1, first_token_s=waited)

    def _count(self, **changes: float) -> None:
        with self._lock:
            for name, change in changes.items():
                setattr(self.counts, name, getattr(self.counts, name) + change)


def _check(logits: Any) -> None:
    if not np.isfinite(logits).all():
        raise FloatingPointError("the model's logits are not finite")
