"""A package in ONNX Runtime GenAI, and sequences that are read with it. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import onnxruntime_genai as og
from tokenizers import Tokenizer

_CACHE_BYTES = 4
"""Of a number in the key-value cache: float32 on processors."""
_ROOM = 256
"""Caches are made for multiples of so many tokens."""


@final
class OnnxModel:
    """A loaded package.

    Attributes:
        context: tokens of a sequence, at most.
        ends: ids that end a text.
        weights: bytes of the weights file.
        token_bytes: that a token takes in the key-value cache.
    """

    # The engine raises its own as nothing else.
    errors: ClassVar[tuple[type[Exception], ...]] = (RuntimeError,)

    def __init__(self, folder: Path, threads: int) -> None:
        told = json.loads((folder / "genai_config.json").read_text())["model"]
        decoder = told["decoder"]
        config = og.Config(str(folder))
        session = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = og.Model(config)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.context, self.vocabulary = int(told["context_length"]), int(told["vocab_size"])
        heads = decoder["num_hidden_layers"] * decoder["num_key_value_heads"]
        self.token_bytes = 2 * heads * decoder["head_size"] * _CACHE_BYTES
        ends = told["eos_token_id"]
        self.ends = tuple(ends) if isinstance(ends, list) else (int(ends),)
        self.weights = (folder / f"{decoder['filename']}.data").stat().st_size

    def reader(self, tokens: int) -> OnnxSequence:
        """An empty sequence with room for `tokens`."""
        return self.sequence(tokens, 1)

    def sequence(self, tokens: int, rows: int, *, spare: int = 0) -> OnnxSequence:
        """An empty sequence of rows that are read together.

        Args:
            tokens: that there is room for.
            spare: more of them, as far as the model goes.
        """
        wish = (tokens + spare + _ROOM - 1) // _ROOM * _ROOM
        return OnnxSequence(self._model, max(min(wish, self.context), tokens), rows)


@final
class OnnxSequence:
    """Rows of tokens that are read together, with a cache of fixed room.

    Attributes:
        room: tokens that fit.
        rows: the prompt, as it was begun with.
        is_used: whether anything was read behind the prompt.
    """

    def __init__(self, model: Any, room: int, rows: int) -> None:
        params = og.GeneratorParams(model)
        # No row of several may end before the others.
        least = room if rows > 1 else 0
        params.set_search_options(
            max_length=room, min_length=least, batch_size=rows, do_sample=False
        )
        self._generator = og.Generator(model, params)
        self.room, self.is_used = room, False
        self.rows: list[list[int]] = [[] for _ in range(rows)]
        self._next = 0

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.rows[0])

    def begin(self, rows: list[list[int]]) -> None:
        """Read a prompt."""
        self.rows, logits = rows, self.read(rows, keep=1)
        if len(rows) > 1:
            # Several rows go on by its own search only: this picks the tokens, and reads nothing.
            self._generator.generate_next_token()
        else:
            self._next = int(logits[0, -1].argmax())

    def read(self, rows: list[list[int]], *, keep: int) -> Any:
        """(rows, keep, vocabulary) float32 logits behind the last `keep` of some tokens."""
        self._generator.append_tokens(np.asarray(rows, dtype=np.int32))
        return self._generator.get_output("logits")[:, len(rows[0]) - keep :]

    def step(self) -> None:
        """Read the likeliest token of every row."""
        self.is_used = True
        if len(self.rows) > 1:
            self._generator.generate_next_token()
        else:
            self._next = int(self.read([[self._next]], keep=1)[0, -1].argmax())

    def clear(self) -> None:
        """Forget everything."""
        self.cut(0)

    def cut(self, length: int) -> None:
        """Forget what was read behind `length` tokens."""
        self._generator.rewind_to(length)

    def restore(self) -> bool:
        """Go back to the end of the prompt; False where the engine cannot."""
        if len(self.rows) > 1:
            return False
        self.cut(self.length)
        self.is_used = False
        return True
