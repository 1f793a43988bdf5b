"""ONNX Runtime's own process: `python -m paredown.runtimes.onnxruntime.worker`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnxruntime_genai as og
from tokenizers import Tokenizer

from paredown.runtimes.sequences import SequenceWorker
from paredown.runtimes.worker import Answer, run

_CACHE_BYTES = 4
"""Of a number in the key-value cache: float32 on processors."""
_ROOM = 256
"""Caches are made for multiples of so many tokens."""
_SPARE = 1024
"""Tokens that may be decoded behind a state without reading its prompt again."""


class OnnxWorker(SequenceWorker["_Sequence"]):
    """One package and what was read with it."""

    def __init__(self, answers: BinaryIO) -> None:
        super().__init__(answers)
        self._model: Any = None
        self._context = 0

    def do_load(self, path: str, threads: int) -> Answer:
        folder = Path(path)
        told = json.loads((folder / "genai_config.json").read_text())["model"]
        decoder = told["decoder"]
        config = og.Config(path)
        session = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = og.Model(config)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._context, self.vocabulary = told["context_length"], told["vocab_size"]
        heads = decoder["num_hidden_layers"] * decoder["num_key_value_heads"]
        self.token_bytes = 2 * heads * decoder["head_size"] * _CACHE_BYTES
        ends = told["eos_token_id"]
        return {
            "vocabulary": self.vocabulary,
            "context": self._context,
            "weights": (folder / f"{decoder['filename']}.data").stat().st_size,
            "ends": ends if isinstance(ends, list) else [ends],
        }

    def begin(self, tokens: int) -> None:
        held = self.sequence
        if held is None or held.room < tokens:
            self.sequence = self._new(tokens, 1)
        else:
            held.cut(0)

    def read(self, ids: Sequence[int], *, keep: int) -> Any:
        logits = self.current.read([list(ids)])[0]
        return logits[len(ids) - keep :] if keep else None

    def _new(self, tokens: int, rows: int, *, spare: int = 0) -> _Sequence:
        """An empty sequence with room for `tokens`, and for more as far as the model goes."""
        wish = (tokens + spare + _ROOM - 1) // _ROOM * _ROOM
        return _Sequence(self._model, max(min(wish, self._context), tokens), rows)

    # --- States ---------------------------------------------------------------------------------

    def do_prefill(self, rows: list[list[int]]) -> Answer:
        sequence = self._new(len(rows[0]), len(rows), spare=_SPARE)
        sequence.begin(rows)
        return {"state": self.keep(sequence)}

    def do_fork(self, state: int) -> Answer:
        # The same sequence: whoever decodes behind it next cuts off what the other one read.
        return {"state": self.keep(self.state(state))}

    def do_decode(self, state: int, count: int) -> Answer:
        sequence = self.state(state)
        del self.states[state]
        if sequence.length + count > sequence.room or (sequence.is_used and not sequence.restore()):
            sequence = self._again(sequence, count)
        for _ in range(count):
            sequence.step()
            self.beat()
        return {}

    def _again(self, sequence: _Sequence, count: int) -> _Sequence:
        new = self._new(sequence.length + count, len(sequence.rows))
        new.begin(sequence.rows)
        return new


class _Sequence:
    """Rows of tokens that are read together, with a cache of fixed room.

    Attributes:
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
        self.rows, logits = rows, self.read(rows)
        if len(rows) > 1:
            # Several rows go on by its own search only: this picks the tokens, and reads nothing.
            self._generator.generate_next_token()
        else:
            self._next = int(logits[0, -1].argmax())

    def read(self, rows: list[list[int]]) -> Any:
        """(rows, tokens, vocabulary) float32 logits behind tokens."""
        self._generator.append_tokens(np.asarray(rows, dtype=np.int32))
        return self._generator.get_output("logits")

    def step(self) -> None:
        """Read the likeliest token of every row."""
        self.is_used = True
        if len(self.rows) > 1:
            self._generator.generate_next_token()
        else:
            self._next = int(self.read([[self._next]])[0, -1].argmax())

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


if __name__ == "__main__":
    run(OnnxWorker)
