"""A package in OpenVINO, and sequences that are read with it. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import openvino as ov
import openvino.opset13 as op
from tokenizers import Tokenizer

from paredown.runtimes.openvino.settings import properties

_KEEP = "keep"
"""Input that is put in as a model is opened: behind how many tokens logits are wanted."""
_CACHE_BYTES = 2
"""Of a number in the key-value cache: half precision, as it is compiled here."""


@final
class OpenVinoModel:
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
        told = json.loads((folder / "settings.json").read_text())
        model = ov.Core().read_model(folder / "openvino_model.xml")
        self.token_bytes = _CACHE_BYTES * sum(
            shape[1].get_length() * shape[3].get_length()
            for node in model.get_ordered_ops()
            if node.get_type_name() == "ReadValue"
            for shape in [node.get_output_partial_shape(0)]
        )
        self._compiled = ov.Core().compile_model(_keeping(model), "CPU", properties(threads))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.vocabulary, self.context = int(told["vocabulary"]), int(told["context"])
        self.ends = tuple(told["ends"])
        self.weights = (folder / "openvino_model.bin").stat().st_size

    def reader(self, tokens: int) -> OpenVinoSequence:
        """An empty sequence; its cache grows as it is read."""
        return self.sequence(1)

    def sequence(self, rows: int) -> OpenVinoSequence:
        """An empty sequence of rows that are read together."""
        return OpenVinoSequence(self._compiled, rows)


@final
class OpenVinoSequence:
    """Rows of tokens that are read together: a request with its state."""

    def __init__(self, compiled: Any, rows: int) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._rows, self._length = rows, 0
        self._next: Any = None

    def clear(self) -> None:
        """Forget everything."""
        self._request.reset_state()
        self._length = 0

    def read(self, rows: list[list[int]], *, keep: int) -> Any:
        """(rows, keep, vocabulary) float32 logits; overwritten by the next call."""
        ids = np.asarray(rows, dtype=np.int64)
        positions = np.arange(self._length, self._length + ids.shape[1], dtype=np.int64)
        self._length += ids.shape[1]
        found = self._request.infer(
            {
                "input_ids": ids,
                "attention_mask": np.ones((self._rows, self._length), dtype=np.int64),
                "position_ids": np.broadcast_to(positions, ids.shape).copy(),
                "beam_idx": np.arange(self._rows, dtype=np.int32),
                _KEEP: np.array([-keep], dtype=np.int64),
            },
            share_inputs=True,
            share_outputs=True,
        )
        logits = found[0]
        self._next = logits[:, -1].argmax(-1)[:, None]
        return logits

    def step(self) -> None:
        """Read the likeliest token of every row."""
        self.read(self._next.tolist(), keep=1)

    def cut(self, length: int) -> None:
        """Forget what was read behind `length` tokens."""
        for state in self._request.query_state():
            kept = np.ascontiguousarray(np.asarray(state.state.data)[:, :, :length])
            state.state = ov.Tensor(kept)
        self._length = length

    def copy(self) -> OpenVinoSequence:
        """Another sequence that has read the same."""
        new = OpenVinoSequence(self._compiled, self._rows)
        theirs = {state.name: state for state in new._request.query_state()}
        for state in self._request.query_state():
            theirs[state.name].state = ov.Tensor(np.array(state.state.data))
        new._length, new._next = self._length, self._next.copy()
        return new


def _keeping(model: ov.Model) -> ov.Model:
    """The model with logits behind the last tokens only, as many as are asked for.

    OpenVINO's libraries for generation cut the same place, to one token.
    """
    head = next(op_ for op_ in model.get_ordered_ops() if op_.get_friendly_name() == "lm_head")
    start = op.parameter(ov.PartialShape([1]), ov.Type.i64, _KEEP)
    start.get_output_tensor(0).set_names({_KEEP})
    one = [np.array([n], dtype=np.int64) for n in (np.iinfo(np.int64).max, 1, 1)]
    end, step, axis = (op.constant(value) for value in one)
    last = op.slice(head.input_value(0), start, end, step, axis)
    head.input(0).replace_source_output(last.output(0))
    model.add_parameters([start])
    model.validate_nodes_and_infer_types()
    return model
