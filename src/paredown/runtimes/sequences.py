"""Workers whose engine keeps what was read in objects, each a sequence with a cache of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO, ClassVar, Generic, Protocol, TypeVar

from paredown.runtimes.worker import Answer, EngineError, ReadingWorker, text_behind


class Cuttable(Protocol):
    """What an engine has read."""

    def cut(self, length: int) -> None:
        """Forget what was read behind `length` tokens."""


S = TypeVar("S", bound=Cuttable)


class SequenceWorker(ReadingWorker, Generic[S]):
    """States by number, and one sequence that logits and texts are asked of.

    Attributes:
        tokenizer: of the package, once it is loaded.
        token_bytes: that a token takes in the key-value cache.
        sequence: the last one that was begun.
        states: behind prompts, by number.
    """

    # Both engines raise their own only as RuntimeError.
    errors: ClassVar[tuple[type[Exception], ...]] = (EngineError, RuntimeError)

    def __init__(self, answers: BinaryIO) -> None:
        super().__init__(answers)
        self.tokenizer: Any = None
        self.token_bytes = 0
        self.sequence: S | None = None
        self.states: dict[int, S] = {}
        self._last = 0

    def do_cache_bytes(self) -> Answer:
        return {"bytes": self.token_bytes}

    def do_drop(self, states: list[int]) -> Answer:
        for state in states:
            self.states.pop(state, None)
        return {}

    def cut(self, length: int) -> None:
        self.current.cut(length)

    def text(self, prompt: Sequence[int], written: Sequence[int]) -> str:
        return text_behind(self.tokenizer.decode, prompt, written)

    @property
    def current(self) -> S:
        """The sequence that was begun."""
        if self.sequence is None:
            raise EngineError("no sequence was begun")
        return self.sequence

    def keep(self, sequence: S) -> int:
        """The number of a new state."""
        self._last += 1
        self.states[self._last] = sequence
        return self._last

    def state(self, number: int) -> S:
        """A state by its number."""
        if number not in self.states:
            raise EngineError(f"state {number} was used up")
        return self.states[number]
