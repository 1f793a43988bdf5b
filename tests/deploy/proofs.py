"""A proof that fits the well-behaved server of `fake`."""

from __future__ import annotations

from paredown.deploy.proof import Golden, Likely, Proof, Tokens
from tests.deploy.fake import ANSWER, TOP

PIECES = [f"{word} " for word in ANSWER.split()]


def golden(message: str, finish: str = "length") -> Golden:
    """A golden prompt as the fake server answers it."""
    return Golden(
        message=message, text=message, ids=tuple(map(ord, message)), is_chat=False,
        next=Likely(
            ids=tuple(TOP), texts=tuple(chr(i + 96) for i in TOP), logprobs=tuple(TOP.values())
        ),
        base_answer="Paris.", answer="".join(PIECES[:8]), finish=finish,
    )  # fmt: skip


def proof(**changes: object) -> Proof:
    """All of it."""
    fields: dict[str, object] = {
        "runtime": "fake", "engine": {}, "machine": "m", "measured_at": "2026-01-01T00:00:00Z",
        "version": "0" * 64, "golden": [golden("Hello"), golden("Where am I?", "stop")],
        "tokens": [Tokens(text=t, ids=tuple(map(ord, t))) for t in ("abc", "x = 1")],
        "answer_tokens": 8, "quality": [], "exactness": [], "served_kl": 0.001,
    }  # fmt: skip
    return Proof.model_validate(fields | changes)
