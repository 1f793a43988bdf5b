"""OpenVINO's own process: `python -m paredown.runtimes.openvino.worker`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from paredown.runtimes.openvino.loaded import OpenVinoModel, OpenVinoSequence
from paredown.runtimes.sequences import SequenceWorker
from paredown.runtimes.worker import BATCH, Answer, EngineError, run


class OpenVinoWorker(SequenceWorker[OpenVinoSequence]):
    """One package and what was read with it."""

    def __init__(self, answers: BinaryIO) -> None:
        super().__init__(answers)
        self._loaded: OpenVinoModel | None = None

    def do_load(self, path: str, threads: int) -> Answer:
        model = self._loaded = OpenVinoModel(Path(path), threads)
        self.tokenizer, self.vocabulary = model.tokenizer, model.vocabulary
        self.token_bytes = model.token_bytes
        return {
            "vocabulary": model.vocabulary,
            "context": model.context,
            "weights": model.weights,
            "ends": list(model.ends),
        }

    @property
    def _model(self) -> OpenVinoModel:
        if self._loaded is None:
            raise EngineError("no model was loaded")
        return self._loaded

    def begin(self, tokens: int) -> None:
        if self.sequence is None:
            self.sequence = self._model.sequence(1)
        self.sequence.clear()

    def read(self, ids: Sequence[int], *, keep: int) -> Any:
        logits = self.current.read([list(ids)], keep=max(keep, 1))
        return logits[0] if keep else None

    # --- States ---------------------------------------------------------------------------------

    def do_prefill(self, rows: list[list[int]]) -> Answer:
        sequence = self._model.sequence(len(rows))
        for at in range(0, len(rows[0]), BATCH):
            sequence.read([row[at : at + BATCH] for row in rows], keep=1)
            self.beat()
        return {"state": self.keep(sequence)}

    def do_fork(self, state: int) -> Answer:
        return {"state": self.keep(self.state(state).copy())}

    def do_decode(self, state: int, count: int) -> Answer:
        sequence = self.state(state)
        del self.states[state]
        for _ in range(count):
            sequence.step()
            self.beat()
        return {}


if __name__ == "__main__":
    run(OpenVinoWorker)
