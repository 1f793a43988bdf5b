"""What a served engine is to the server: a model, and sequences that it reads side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from tokenizers import Tokenizer

BATCH = 64
"""Tokens of a prompt that are read at once. ONNX Runtime's library holds Python's lock meanwhile,
so until they are read nobody else, a probe of `/health` included, has a turn."""
_OUTPUT_BYTES = 128 << 20
"""Logits that are computed at once, at most."""


class Reader(Protocol):
    """A sequence of tokens that a model has read."""

    def clear(self) -> None:
        """Forget everything."""

    def read(self, rows: list[list[int]], *, keep: int) -> Any:
        """Read tokens behind the sequence.

        Args:
            rows: one row of ids.

        Returns:
            (1, keep, vocabulary) float32 logits behind the last `keep` of them; they may be
            overwritten by the next call.
        """


class Served(Protocol):
    """A loaded model.

    Attributes:
        context: tokens of a sequence, at most.
        ends: ids that end a text.
        errors: what its readers raise where the engine fails; anything else is a bug.
    """

    errors: ClassVar[tuple[type[Exception], ...]]
    vocabulary: int
    context: int
    ends: tuple[int, ...]
    tokenizer: Tokenizer

    def reader(self, tokens: int) -> Reader:
        """A new sequence with room for so many tokens."""


def logits_behind(reader: Reader, ids: Sequence[int], vocabulary: int) -> Any:
    """(vocabulary,) float32 logits behind the last of `ids`, read in parts."""
    step = max(1, min(BATCH, _OUTPUT_BYTES // (4 * vocabulary)))
    logits = None
    for at in range(0, len(ids), step):
        logits = reader.read([list(ids[at : at + step])], keep=1)
    if logits is None:
        raise AssertionError("a prompt has at least one token")
    return logits[0, -1]
