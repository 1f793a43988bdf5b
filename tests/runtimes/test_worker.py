"""What every engine's process does with its logits, by an engine that counts."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from paredown.runtimes.worker import BATCH, Answer, EngineError, ReadingWorker, text_behind

VOCABULARY = 10


class Counting(ReadingWorker):
    """Behind token t, t + 1 is the likeliest by 2 nats; nothing else differs."""

    vocabulary = VOCABULARY

    def __init__(self) -> None:
        self.out = io.BytesIO()
        super().__init__(self.out)
        self.seen: list[int] = []
        self.calls: list[int] = []

    def begin(self, tokens: int) -> None:
        self.seen = []

    def read(self, ids: Sequence[int], *, keep: int) -> Any:
        if any(token >= VOCABULARY for token in ids):
            raise EngineError("no such token")
        self.seen += ids
        self.calls.append(len(ids))
        logits = np.zeros((len(ids), VOCABULARY), dtype=np.float32)
        logits[np.arange(len(ids)), [(token + 1) % VOCABULARY for token in ids]] = 2.0
        return logits[len(ids) - keep :] if keep else None

    def cut(self, length: int) -> None:
        del self.seen[length:]

    def text(self, prompt: Sequence[int], written: Sequence[int]) -> str:
        return "".join("abcdefghij"[token] for token in written)

    def do_load(self, path: str, threads: int) -> Answer:
        return {}

    def do_cache_bytes(self) -> Answer:
        return {"bytes": 1}

    def do_prefill(self, rows: list[list[int]]) -> Answer:
        return {"state": 1}

    def do_fork(self, state: int) -> Answer:
        return {"state": 2}

    def do_decode(self, state: int, count: int) -> Answer:
        return {}

    def do_drop(self, states: list[int]) -> Answer:
        return {}


LIKELY = 2.0 - float(np.log(np.exp(2.0) + VOCABULARY - 1))
"""Log-probability of the next number; of any other, 2 less."""


def test_a_text_goes_on_until_a_stop_or_an_end() -> None:
    told: dict[str, Any] = {"prompt": [1], "max_tokens": 6, "top": 2}
    worker = Counting()
    assert worker.do_generate(stops=[], ends=[], **told)["text"] == "cdefgh"
    assert worker.do_generate(stops=["", "ef"], ends=[], **told)["text"] == "cd"
    found = worker.do_generate(stops=["zz"], ends=[5], **told)
    assert found["text"] == "cde"
    assert found["next"][0][0] == 2
    assert found["next"][1][0] == pytest.approx(LIKELY, abs=1e-5)


def test_answers_behind_a_prompt_are_scored_alone() -> None:
    worker = Counting()
    # Behind 1, 2: "3" is foretold within the prompt; "3 4" reads its own first token; "5" is odd.
    answers = worker.do_score([1, 2], [[], [3], []], [[3], [3, 4], [5]], top=1)["answers"]
    found = [(answer["loglikelihood"], answer["greedy"]) for answer in answers]
    assert found[0] == (pytest.approx(LIKELY), True)
    assert found[1] == (pytest.approx(2 * LIKELY), True)
    assert found[2] == (pytest.approx(LIKELY - 2.0), False)
    assert worker.seen == [1, 2]


def test_long_prompts_are_read_in_parts_with_every_row() -> None:
    worker = Counting()
    ids = [i % VOCABULARY for i in range(BATCH + 7)]
    worker.do_logits(ids)
    assert worker.calls == [BATCH, 7]
    left, rows = worker.out.getvalue(), []
    while left:
        line, _, left = left.partition(b"\n")
        count = json.loads(line)["nbytes"]
        rows.append(np.frombuffer(left[:count], dtype=np.float32).reshape(-1, VOCABULARY))
        left = left[count:]
    likeliest = np.concatenate(rows).argmax(-1).tolist()
    assert likeliest == [(token + 1) % VOCABULARY for token in ids]


def test_what_the_engine_refuses_is_an_answer_and_a_bug_is_not() -> None:
    worker = Counting()
    worker.serve(io.BytesIO(b'{"do": "logits", "ids": [99]}\n'))
    assert json.loads(worker.out.getvalue()) == {"error": "no such token"}
    with pytest.raises(AttributeError):
        worker.serve(io.BytesIO(b'{"do": "dance"}\n'))


def test_a_continuation_keeps_its_first_blank() -> None:
    words = ["", "Hello", " world", "!"]

    def decode(ids: list[int]) -> str:
        return "".join(words[i] for i in ids).lstrip()  # as SentencePiece does

    assert text_behind(decode, [1], [2, 3]) == " world!"
    assert text_behind(decode, [0], [2]) == "world"
