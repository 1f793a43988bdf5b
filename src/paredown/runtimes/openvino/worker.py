"""OpenVINO's own process: `python -m paredown.runtimes.openvino.worker`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import openvino as ov
import openvino.opset13 as op
from tokenizers import Tokenizer

from paredown.runtimes.openvino.settings import properties
from paredown.runtimes.sequences import SequenceWorker
from paredown.runtimes.worker import BATCH, Answer, run

_KEEP = "keep"
"""Input that is put in as a model is opened: behind how many tokens logits are wanted."""
_CACHE_BYTES = 2
"""Of a number in the key-value cache: half precision, as it is compiled here."""


class OpenVinoWorker(SequenceWorker["_Sequence"]):
    """One package and what was read with it."""

    def __init__(self, answers: BinaryIO) -> None:
        super().__init__(answers)
        self._compiled: Any = None

    def do_load(self, path: str, threads: int) -> Answer:
        folder = Path(path)
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
        self.vocabulary = told["vocabulary"]
        size = (folder / "openvino_model.bin").stat().st_size
        return {**told, "weights": size}

    def begin(self, tokens: int) -> None:
        if self.sequence is None:
            self.sequence = _Sequence(self._compiled, 1)
        self.sequence.clear()

    def read(self, ids: Sequence[int], *, keep: int) -> Any:
        logits = self.current.read([list(ids)], keep=max(keep, 1))
        return logits[0] if keep else None

    # --- States ---------------------------------------------------------------------------------

    def do_prefill(self, rows: list[list[int]]) -> Answer:
        sequence = _Sequence(self._compiled, len(rows))
        for at in range(0, len(rows[0]), BATCH):
            sequence.read([row[at : at + BATCH] for row in rows], keep=1)
            self.beat()
        return {"state": self.keep(sequence)}

    def do_fork(self, state: int) -> Answer:
        return {"state": self.keep(self.state(state).copy(self._compiled))}

    def do_decode(self, state: int, count: int) -> Answer:
        sequence = self.state(state)
        del self.states[state]
        for _ in range(count):
            sequence.step()
            self.beat()
        return {}


class _Sequence:
    """Rows of tokens that are read together: a request with its state."""

    def __init__(self, compiled: Any, rows: int) -> None:
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

    def copy(self, compiled: Any) -> _Sequence:
        """Another sequence that has read the same."""
        new = _Sequence(compiled, self._rows)
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


if __name__ == "__main__":
    run(OpenVinoWorker)
