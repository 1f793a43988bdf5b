"""Answers in OpenAI's shapes: whole, or as the events of a stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final
from uuid import uuid4

from tokenizers import Tokenizer

from paredown.runtimes.serving.generation import Finish, Job, Piece
from paredown.runtimes.serving.sampling import Picked

Document = dict[str, Any]


@final
class Shape:
    """How the answer to one request is told."""

    def __init__(self, job: Job, *, model: str, tokenizer: Tokenizer) -> None:
        """`model` is the name under which the model is listed."""
        self._job, self._model, self._tokenizer = job, model, tokenizer
        kind = "chatcmpl" if job.ask.is_chat else "cmpl"
        self._id, self._created = f"{kind}-{uuid4().hex}", int(time.time())
        self._offset = 0

    def whole(self, pieces: Sequence[Piece]) -> Document:
        """The answer in one piece."""
        text = "".join(piece.text for piece in pieces)
        picked = [one for piece in pieces for one in piece.picked]
        last = pieces[-1]
        if self._job.ask.is_chat:
            choice: Document = {"message": {"role": "assistant", "content": text}}
        else:
            choice = {"text": text}
        return {
            **self._head("chat.completion" if self._job.ask.is_chat else "text_completion"),
            "choices": [self._choice(choice, picked, last.finish)],
            "usage": self._usage(last.tokens),
        }

    def opening(self) -> Document | None:
        """The event before the first piece: a chat says who speaks."""
        if not self._job.ask.is_chat:
            return None
        return self._event({"delta": {"role": "assistant", "content": ""}}, Piece(""))

    def event(self, piece: Piece) -> Document:
        """One piece of a stream."""
        if self._job.ask.is_chat:
            return self._event({"delta": {"content": piece.text} if piece.text else {}}, piece)
        return self._event({"text": piece.text}, piece)

    def closing(self, tokens: int) -> Document | None:
        """The event with the counts, behind the last piece; None where they were not asked for."""
        if not self._job.ask.usage:
            return None
        return {**self._head(self._chunk), "choices": [], "usage": self._usage(tokens)}

    @property
    def _chunk(self) -> str:
        return "chat.completion.chunk" if self._job.ask.is_chat else "text_completion"

    def _event(self, choice: Document, piece: Piece) -> Document:
        event = {
            **self._head(self._chunk),
            "choices": [self._choice(choice, piece.picked, piece.finish)],
        }
        if self._job.ask.usage_always:
            event["usage"] = self._usage(piece.tokens)
        return event

    def _head(self, kind: str) -> Document:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _usage(self, tokens: int) -> Document:
        n = len(self._job.ids)
        return {"prompt_tokens": n, "completion_tokens": tokens, "total_tokens": n + tokens}

    def _choice(
        self, choice: Document, picked: Sequence[Picked], finish: Finish | None
    ) -> Document:
        told = None if self._job.ask.top is None else self._logprobs(picked)
        return {"index": 0, **choice, "logprobs": told, "finish_reason": finish}

    def _logprobs(self, picked: Sequence[Picked]) -> Document:
        """Of a chat `content`; of a completion the older lists beside it.

        Entries have the token's id as well: texts of tokens are not unique.
        """
        content = [
            {**self._token(one.token, one.logprob), "top_logprobs": [
                self._token(token, logprob) for token, logprob in one.top
            ]}
            for one in picked
        ]  # fmt: skip
        if self._job.ask.is_chat:
            return {"content": content}
        offsets = []
        for entry in content:
            offsets.append(self._offset)
            self._offset += len(entry["token"])
        return {
            "tokens": [entry["token"] for entry in content],
            "token_logprobs": [entry["logprob"] for entry in content],
            "top_logprobs": [
                {top["token"]: top["logprob"] for top in entry["top_logprobs"]} for entry in content
            ],
            "text_offset": offsets,
            "content": content,
        }

    def _token(self, token: int, logprob: float | None) -> Document:
        text = self._tokenizer.decode([token], skip_special_tokens=False)
        return {"id": token, "token": text, "logprob": logprob, "bytes": list(text.encode())}


@dataclass(frozen=True)
class Failed:
    """An error in OpenAI's shape."""

    message: str
    kind: str
    status: int

    def document(self) -> Document:
        """Its JSON."""
        return {"error": {"message": self.message, "type": self.kind, "code": self.status}}
