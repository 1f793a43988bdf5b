"""The language model behind an OpenAI-compatible endpoint; the only place that knows its client.

Nothing that comes back is trusted: an answer is bounded in bytes and in time, every error becomes
an `AdviceError`, and keys are blotted out of all words that leave this module.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, final

from paredown.advise.exchange import BoundsError, Exchange
from paredown.advise.untraced import untraced
from paredown.errors import AdviceError, ConfigError, MissingExtraError
from paredown.spec.redact import BLOT, redact, shown
from paredown.spec.run import LlmConfig

KEY = "OPENAI_API_KEY"
URL = "OPENAI_BASE_URL"
OPENAI = "https://api.openai.com/v1"
LOCAL = "local"
RETRIES = 1
"""After a lost connection, a rate limit or an error of the server."""
_PAUSE_S = 0.5
"""Before a second try, where the server does not say how long."""
_MOST_TOKENS = 10**9
"""A usage beyond it is no count of tokens."""
CHARS_PER_TOKEN = 2.0
"""Fewer than any tokenizer needs for our prompts: tokens are never underestimated."""

PRICES: Mapping[str, tuple[float, float]] = {
    "gpt-4o": (2.5, 10.0),
    "gpt-4o-mini": (0.15, 0.6),
    "gpt-4.1": (2.0, 8.0),
    "gpt-4.1-mini": (0.4, 1.6),
    "gpt-4.1-nano": (0.1, 0.4),
    "gpt-5": (1.25, 10.0),
    "gpt-5-mini": (0.25, 2.0),
    "gpt-5-nano": (0.05, 0.4),
}
"""US dollars per million tokens (sent, received) at OpenAI: list prices of April 2026. Dated names
such as gpt-4o-2024-05-13 are left out, because some of them cost something else."""

_NO_COMPLETION = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError,
    NotImplementedError,
)  # fmt: skip
"""What the client raises on bodies that are no chat completion: it trusts their shape."""

Message = dict[str, str]
"""`role` and `content`."""


@final
@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a language model answers.

    Attributes:
        model: its name there.
        url: base address, without a key.
        key: sent with each request; never shown.
        price: US dollars per million tokens sent and received; None where it is not known.
    """

    model: str
    url: str
    key: str = field(repr=False)
    price: tuple[float, float] | None

    @property
    def host(self) -> str:
        """For messages: the address without scheme and path."""
        return self.url.split("//", 1)[-1].split("/", 1)[0]


@final
@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer and what it took.

    Attributes:
        text: what the model wrote, keys blotted out.
        sent, received: tokens.
        counted: `reported` by the endpoint, or `estimated` from the length where it is silent.
        usd: price of the answer; None where it is not known.
        seconds: that it took.
    """

    text: str
    sent: int
    received: int
    counted: Literal["reported", "estimated"]
    usd: float | None
    seconds: float


def find_endpoint(config: LlmConfig) -> Endpoint | str:
    """The endpoint that is configured, or why there is none.

    Raises:
        ConfigError: `OPENAI_BASE_URL` is no address, or holds a secret.
    """
    key, url = os.environ.get(KEY, "").strip(), config.url or os.environ.get(URL, "").strip()
    if not key and not url:
        return f"neither {KEY} nor an address (--llm-url, {URL}) is set"
    if url and (not re.match(r"https?://[^\s@?#]+$", url)):
        raise ConfigError(f"{URL}: must be http(s)://HOST/PATH without user, password or query")
    url = url or OPENAI
    price = config.price or (PRICES.get(config.model) if url.startswith(OPENAI) else None)
    return Endpoint(model=config.model, url=url, key=key or "none", price=price)


def require_client() -> None:
    """Refuse where the client library is not installed.

    Raises:
        MissingExtraError: with the pip command.
    """
    if find_spec("langchain_openai") is None:
        raise MissingExtraError("the LLM coordinator", "langchain-openai", "llm")


def estimate_tokens(messages: Sequence[Message]) -> int:
    """Upper estimate of the tokens of a conversation."""
    return int(sum(len(m["content"]) for m in messages) / CHARS_PER_TOKEN) + 8 * len(messages)


@final
class Advisor:
    """Asks one endpoint. The client is made at the first question: it imports slowly."""

    def __init__(self, endpoint: Endpoint, config: LlmConfig) -> None:
        self.endpoint, self.config = endpoint, config
        self._client: Any = None
        self._http: Any = None
        self._exchange = Exchange()
        self._takes_schema = True

    def close(self) -> None:
        """Close the connections; nothing can be asked any more."""
        if self._http is not None:
            self._http.close()

    def ask(self, messages: Sequence[Message], schema: dict[str, Any]) -> Reply:
        """One answer, which should be JSON of the given schema (some endpoints ignore it).

        Raises:
            AdviceError: there is no usable answer: refused, too late, too long, disconnected...
        """
        try:
            return self._ask(messages, schema if self._takes_schema else None)
        except _SchemaRefusedError:
            self._takes_schema = False
            return self._ask(messages, None)

    def _ask(self, messages: Sequence[Message], schema: dict[str, Any] | None) -> Reply:
        import openai

        client = self._client = self._client or self._open()
        if schema is not None:
            form = {"name": "advice", "strict": True, "schema": schema}
            client = client.bind(response_format={"type": "json_schema", "json_schema": form})
        start = time.monotonic()
        try:
            with untraced():
                answer = self._exchange.carry_out(
                    lambda: self._invoke(client, list(messages)), self.config.timeout_s
                )
            return self._reply(answer, messages, time.monotonic() - start)
        except openai.BadRequestError as error:
            if schema is not None and "response_format" in str(error):
                raise _SchemaRefusedError from None
            raise AdviceError(self._explain(error)) from None
        except (openai.OpenAIError, BoundsError, OSError) as error:
            raise AdviceError(self._exchange.late or self._explain(error)) from None
        except _NO_COMPLETION as error:
            raise AdviceError(f"no chat completion came back ({self._explain(error)})") from None

    def _invoke(self, client: Any, messages: list[Message]) -> Any:
        """Ask, and once more after a fault that may pass; all of it before the deadline."""
        import openai

        passing = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError)
        for _ in range(RETRIES):
            try:
                return client.invoke(messages)
            except passing as error:
                pause = _retry_after(error)
                refused = isinstance(error.__cause__, BoundsError)  # by us, and would be again
                if refused or self._exchange.late or pause >= self._exchange.left_s:
                    raise
                time.sleep(pause)
        return client.invoke(messages)

    def _open(self) -> Any:
        import openai
        from langchain_openai import ChatOpenAI

        official = self.endpoint.url.startswith(OPENAI)
        self._http = openai.DefaultHttpxClient(
            timeout=self.config.timeout_s,
            # A connection per exchange: one that is kept could not be shut at the deadline.
            headers={"Accept-Encoding": "identity", "Connection": "close"},
            event_hooks=self._exchange.hooks,
            follow_redirects=False,
        )
        return ChatOpenAI(
            model=self.endpoint.model,
            base_url=self.endpoint.url,
            api_key=self.endpoint.key,
            max_completion_tokens=self.config.answer_tokens,
            timeout=self.config.timeout_s,
            max_retries=0,  # its pauses know no deadline; see `_invoke`
            http_client=self._http,
            use_responses_api=False,
            # Its older name, which is the one that many other servers know.
            extra_body=None if official else {"max_tokens": self.config.answer_tokens},
        )

    def _reply(self, answer: Any, messages: Sequence[Message], seconds: float) -> Reply:
        if answer.type != "ai":
            raise AdviceError(f"the answer has the role {self._shown(str(answer.type))!r}")
        text = answer.content if isinstance(answer.content, str) else ""
        refusal = answer.additional_kwargs.get("refusal")
        if refusal and not text:
            raise AdviceError(f"the model refused: {self._shown(str(refusal))}")
        usage = answer.usage_metadata or {}
        sent, received = (_tokens(usage.get(k)) for k in ("input_tokens", "output_tokens"))
        reported = sent > 0 and received > 0
        if not reported:
            sent = estimate_tokens(messages)
            received = estimate_tokens([{"content": text}])
        return Reply(
            text=self._clean(text),
            sent=sent,
            received=received,
            counted="reported" if reported else "estimated",
            usd=price_of(self.endpoint, sent, received),
            seconds=round(seconds, 3),
        )

    def _explain(self, error: Exception) -> str:
        status = getattr(error, "status_code", None)
        text = f"{type(error).__name__}{f' {status}' if status else ''}: {error}"
        cause = error.__cause__ or error.__context__  # the client says only "Connection error."
        if cause is not None and str(cause) not in text:
            text += f" ({cause})"
        return self._shown(text)

    def _shown(self, text: str) -> str:
        """Words of the endpoint as they may be recorded: one short line without keys."""
        return shown(self._clean(text))

    def _clean(self, text: str) -> str:
        key = self.endpoint.key  # in any case, even if it does not look like one
        return redact(text.replace(key, BLOT) if len(key) >= 8 else text)


class _SchemaRefusedError(Exception):
    """The endpoint does not know `response_format`."""


def _tokens(value: Any) -> int:
    """A number of tokens that an endpoint reports; 0 for what cannot be one."""
    known = isinstance(value, int | float) and 0 <= value <= _MOST_TOKENS  # NaN compares false
    return int(value) if known else 0


def _retry_after(error: Exception) -> float:
    """Seconds that a server asks to wait before the next try."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        return max(0.0, float(headers.get("retry-after", _PAUSE_S)))
    except ValueError:  # a date, as HTTP allows
        return _PAUSE_S


def price_of(endpoint: Endpoint, sent: int, received: int) -> float | None:
    """US dollars."""
    if endpoint.price is None:
        return None
    return (sent * endpoint.price[0] + received * endpoint.price[1]) / 1e6
