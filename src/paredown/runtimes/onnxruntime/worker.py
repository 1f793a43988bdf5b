"""ONNX Runtime's own process: `python -m paredown.runtimes.onnxruntime.worker`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from paredown.runtimes.onnxruntime.loaded import OnnxModel, OnnxSequence
from paredown.runtimes.sequences import SequenceWorker
from paredown.runtimes.worker import Answer, EngineError, run

_SPARE = 1024
"""Tokens that may be decoded behind a state without reading its prompt again."""


class OnnxWorker(SequenceWorker[OnnxSequence]):
    """One package and what was read with it."""

    def __init__(self, answers: BinaryIO) -> None:
        super().__init__(answers)
        self._loaded: OnnxModel | None = None

    def do_load(self, path: str, threads: int) -> Answer:
        model = self._loaded = OnnxModel(Path(path), threads)
        self.tokenizer, self.vocabulary = model.tokenizer, model.vocabulary
        self.token_bytes = model.token_bytes
        return {
            "vocabulary": model.vocabulary,
            "context": model.context,
            "weights": model.weights,
            "ends": list(model.ends),
        }

    @property
    def _model(self) -> OnnxModel:
        if self._loaded is None:
            raise EngineError("no model was loaded")
        return self._loaded

    def begin(self, tokens: int) -> None:
        held = self.sequence
        if held is None or held.room < tokens:
            self.sequence = self._model.sequence(tokens, 1)
        else:
            held.clear()

    def read(self, ids: Sequence[int], *, keep: int) -> Any:
        logits = self.current.read([list(ids)], keep=keep)[0]
        return logits if keep else None

    # --- States ---------------------------------------------------------------------------------

    def do_prefill(self, rows: list[list[int]]) -> Answer:
        sequence = self._model.sequence(len(rows[0]), len(rows), spare=_SPARE)
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

    def _again(self, sequence: OnnxSequence, count: int) -> OnnxSequence:
        new = self._model.sequence(sequence.length + count, len(sequence.rows))
        new.begin(sequence.rows)
        return new


if __name__ == "__main__":
    run(OnnxWorker)
