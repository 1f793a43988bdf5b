"""What is asked of a served model in OpenAI's words, and what its answers hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from paredown.deploy.client import Client
from paredown.errors import ServerError
from paredown.spec.redact import shown

TOP = 20
"""Likeliest tokens that are asked for: the most that every server gives."""

Prompt = str | Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A text that was generated, and what was said about it.

    Attributes:
        finish: `stop` where the model ended it, `length` where the limit did.
        prompt_tokens, tokens: as the server counts them; None where it does not tell.
        top: log-probabilities of the first token's likeliest candidates, nats, by token id, or by
            the token's text where the server gives no ids; empty where they were not asked for.
    """

    text: str
    finish: str | None
    prompt_tokens: int | None
    tokens: int | None
    top: Mapping[int | str, float]


@final
class Questioner:
    """Asks one model of one server."""

    def __init__(self, client: Client, model: str) -> None:
        self.client, self.model = client, model

    def complete(
        self, prompt: Prompt, *, max_tokens: int, top: int = 0, timeout_s: float | None = None
    ) -> Answer:
        """Continue a text, or token ids, greedily.

        Raises:
            ServerError: no answer in time, or none that has a text.
        """
        document = self._request(prompt, max_tokens)
        if top:
            document["logprobs"] = top
        reply = self.client.post("/v1/completions", document, timeout_s=timeout_s).document()
        choice = _choice(reply)
        return _answer(reply, choice, _text(choice, "text"))

    def chat(self, message: str, *, max_tokens: int, timeout_s: float | None = None) -> Answer:
        """Answer a user's message greedily.

        Raises:
            ServerError: no answer in time, or none that has a text.
        """
        document = {
            "model": self.model, "messages": [{"role": "user", "content": message}],
            "max_tokens": max_tokens, "temperature": 0,
        }  # fmt: skip
        reply = self.client.post("/v1/chat/completions", document, timeout_s=timeout_s).document()
        choice = _choice(reply)
        said = choice.get("message")
        return _answer(reply, choice, _text(said if isinstance(said, dict) else {}, "content"))

    def stream(
        self, prompt: Prompt, *, max_tokens: int, timeout_s: float | None = None
    ) -> Streamed:
        """The same as `complete`, token by token; seconds are told for each.

        Raises:
            ServerError: no stream that ends as it should, in time.
        """
        from time import monotonic

        document = self._request(prompt, max_tokens)
        document["stream_options"] = {"include_usage": True}
        start, times, text, finish, tokens = monotonic(), [], "", None, None
        for event in self.client.stream("/v1/completions", document, timeout_s=timeout_s):
            tokens = _count(event, "completion_tokens") or tokens
            if not event.get("choices"):
                continue  # the usage comes in an event of its own
            choice = _choice(event)
            finish = choice.get("finish_reason") or finish
            if piece := _text(choice, "text"):
                text += piece
                times.append(monotonic() - start)
        return Streamed(text=text, finish=finish, tokens=tokens, times=tuple(times))

    def token_ids(self, text: str) -> list[int] | None:
        """Ids of a text without special tokens; None where the server does not tell them.

        Raises:
            ServerError: no answer in time.
        """
        forms: tuple[dict[str, Any], ...] = (
            {"content": text, "add_special": False, "parse_special": True},  # llama.cpp
            {"model": self.model, "prompt": text, "add_special_tokens": False},  # vLLM
        )
        for form in forms:
            reply = self.client.post("/tokenize", form)
            if reply.is_ok and isinstance(found := reply.document().get("tokens"), list):
                return [int(token) for token in found]
        return None

    def _request(self, prompt: Prompt, max_tokens: int) -> dict[str, Any]:
        return {
            "model": self.model, "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "max_tokens": max_tokens, "temperature": 0,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """A streamed answer.

    Attributes:
        tokens: as the server counts them; None where it does not tell.
        times: seconds from the request to every piece of text.
    """

    text: str
    finish: str | None
    tokens: int | None
    times: tuple[float, ...]


def models(client: Client) -> list[dict[str, Any]]:
    """The models that a server lists.

    Raises:
        ServerError: no answer in time, or no list.
    """
    found = client.get("/v1/models").document().get("data")
    if not isinstance(found, list) or not all(isinstance(m, dict) and "id" in m for m in found):
        raise ServerError("/v1/models: status 200 without a list of models")
    return found


def _choice(reply: Mapping[str, Any]) -> dict[str, Any]:
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ServerError(f"status 200 without a choice: {shown(str(dict(reply)), 120)}")
    first: dict[str, Any] = choices[0]
    return first


def _text(of: Mapping[str, Any], field: str) -> str:
    found = of.get(field)
    if not isinstance(found, str):
        raise ServerError(f"status 200 without a text: {shown(str(dict(of)), 120)}")
    return found


def _answer(reply: Mapping[str, Any], choice: Mapping[str, Any], text: str) -> Answer:
    return Answer(
        text=text,
        finish=choice.get("finish_reason"),
        prompt_tokens=_count(reply, "prompt_tokens"),
        tokens=_count(reply, "completion_tokens"),
        top=_top(choice.get("logprobs")),
    )


def _count(reply: Mapping[str, Any], name: str) -> int | None:
    usage = reply.get("usage")
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, int) else None


def _top(said: object) -> dict[int | str, float]:
    """Candidates of the first token, in either of the two shapes that servers use."""
    if not isinstance(said, dict):
        return {}
    content, classic = said.get("content"), said.get("top_logprobs")
    if isinstance(content, list) and content and isinstance(content[0], dict):
        told = content[0].get("top_logprobs") or []
        candidates = [
            one
            for one in told
            if isinstance(one, dict) and isinstance(one.get("logprob"), int | float)
        ]
        if _is_joined(content[0], candidates):
            return {}
        return {
            one["id"] if "id" in one else str(one["token"]): float(one["logprob"])
            for one in candidates
        }
    if isinstance(classic, list) and classic and isinstance(classic[0], dict):
        return {str(token): float(value) for token, value in classic[0].items()}
    return {}


def _is_joined(first: dict[str, Any], candidates: list[dict[str, Any]]) -> bool:
    """Whether an entry stands for several tokens, and its candidates are those of the last one.

    llama.cpp does so with tokens that are parts of a character: the entry has all their bytes.
    """
    chosen = next((one for one in candidates if one.get("id", 0) == first.get("id", 0)), None)
    return chosen is not None and chosen.get("bytes") != first.get("bytes")
