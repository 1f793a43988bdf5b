"""What is asked of the server, checked: OpenAI's completions and chat completions.

A field that the server does not know is refused, and so is one that it knows and cannot do: an
answer that silently left it out would be the answer to another question.

Source: OpenAI API reference, "Completions" and "Chat completions"; `ignore_eos`, and
`continuous_usage_stats` of `stream_options`, as vLLM has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_TOP = 20
"""Likeliest tokens that are told, at most."""
COMPLETION_TOKENS = 16
"""Of a completion that names no number, as OpenAI has it."""
_MOST_STOPS = 16
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "suffix": ("",), "presence_penalty": (0,),
    "frequency_penalty": (0,), "logit_bias": ({},), "tools": ([],), "tool_choice": ("none",),
    "functions": ([],), "response_format": ({"type": "text"},), "min_p": (0,), "top_k": (0, -1),
    "repetition_penalty": (1,),
}  # fmt: skip
"""Fields that change an answer in ways that are not done here, and their values that do not."""
_ABOUT = {"model", "user", "store", "metadata", "service_tier", "safety_identifier"}
"""Fields that do not change an answer; there is one model here, whatever it is called."""
_DONE = {
    "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed",
    "stop", "stream", "stream_options", "logprobs", "top_logprobs", "ignore_eos",
}  # fmt: skip


class RequestError(Exception):
    """A request that is not carried out.

    Attributes:
        status: of HTTP.
        kind: of the error, in OpenAI's words.
    """

    def __init__(self, message: str, *, status: int = 400, kind: str = "invalid_request_error"):
        super().__init__(message)
        self.status, self.kind = status, kind


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request.

    Attributes:
        prompt: a text or token ids; or the messages of a chat.
        max_tokens: of the answer; None: as many as there is room for.
        top: likeliest tokens that are told of every place; None: nothing is told.
        ignore_ends: go on behind the tokens that end a text.
        usage, usage_always: whether a stream tells its counts, at its end or in every event.
    """

    prompt: str | list[int] | list[dict[str, str]]
    is_chat: bool
    max_tokens: int | None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stops: tuple[str, ...] = ()
    top: int | None = None
    stream: bool = False
    usage: bool = False
    usage_always: bool = False
    ignore_ends: bool = False


def parse(document: object, *, is_chat: bool) -> Ask:
    """A request from its JSON.

    Raises:
        RequestError: which field is wrong, and what it may be.
    """
    if not isinstance(document, dict):
        raise RequestError("the body is no JSON object")
    told = {name: value for name, value in document.items() if value is not None}
    _refuse_others(told)
    options = _options(told)
    return Ask(
        prompt=_messages(told) if is_chat else _prompt(told),
        is_chat=is_chat,
        max_tokens=_limit(told, None if is_chat else COMPLETION_TOKENS),
        temperature=_number(told, "temperature", 1.0, 0.0, 2.0),
        top_p=_number(told, "top_p", 1.0, 0.0, 1.0),
        seed=_integer(told, "seed", None, -(1 << 63), (1 << 63) - 1),
        stops=_stops(told),
        top=_top(told, is_chat=is_chat),
        stream=_flag(told, "stream"),
        usage=_flag(options, "include_usage"),
        usage_always=_flag(options, "continuous_usage_stats"),
        ignore_ends=_flag(told, "ignore_eos"),
    )


def _refuse_others(told: Mapping[str, Any]) -> None:
    for name, value in told.items():
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                raise RequestError(f"{name}: this server does not do it; leave it out")
        elif name not in _DONE | _ABOUT:
            raise RequestError(f"{str(name)[:60]!r} is no field that this server knows")


def _prompt(told: Mapping[str, Any]) -> str | list[int]:
    prompt = told.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return prompt
    raise RequestError("prompt: give one text, or one list of token ids")


def _messages(told: Mapping[str, Any]) -> list[dict[str, str]]:
    messages = told.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages: give a list of {role, content}")
    return [_message(message) for message in messages]


def _message(message: object) -> dict[str, str]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RequestError("messages: each has a role and a content")
    content = message.get("content")
    if isinstance(content, list):
        parts = [p.get("text") if isinstance(p, dict) else None for p in content]
        if not all(isinstance(part, str) for part in parts):
            raise RequestError("messages: a content has parts of text alone here")
        content = "".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise RequestError("messages: a content is a text")
    return {"role": message["role"], "content": content}


def _limit(told: Mapping[str, Any], usual: int | None) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        if name in told:
            return _integer(told, name, None, 1, 1 << 31)
    return usual


def _stops(told: Mapping[str, Any]) -> tuple[str, ...]:
    stop = told.get("stop", [])
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(s, str) for s in stops):
        raise RequestError("stop: give a text or a list of texts")
    if len(stops) > _MOST_STOPS:
        raise RequestError(f"stop: at most {_MOST_STOPS} texts")
    return tuple(s for s in stops if s)


def _top(told: Mapping[str, Any], *, is_chat: bool) -> int | None:
    if not is_chat:
        return _integer(told, "logprobs", None, 0, MOST_TOP)
    if not _flag(told, "logprobs"):
        if told.get("top_logprobs"):
            raise RequestError("top_logprobs: only with logprobs = true")
        return None
    return _integer(told, "top_logprobs", 0, 0, MOST_TOP)


def _options(told: Mapping[str, Any]) -> Mapping[str, Any]:
    options = told.get("stream_options", {})
    if not isinstance(options, dict):
        raise RequestError("stream_options: give an object")
    if other := options.keys() - {"include_usage", "continuous_usage_stats"}:
        raise RequestError(f"stream_options: {str(min(other))[:60]!r} is not known here")
    return options


def _flag(told: Mapping[str, Any], name: str) -> bool:
    value = told.get(name, False)
    if not isinstance(value, bool):
        raise RequestError(f"{name}: give true or false")
    return value


def _number(told: Mapping[str, Any], name: str, usual: float, low: float, high: float) -> float:
    value = told.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RequestError(f"{name}: give a number from {low:g} to {high:g}")
    return float(value)


def _integer(
    told: Mapping[str, Any], name: str, usual: int | None, low: int, high: int
) -> int | None:
    value = told.get(name, usual)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise RequestError(f"{name}: give a whole number from {low} to {high}")
    return value
