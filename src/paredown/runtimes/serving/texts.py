"""Between texts and tokens: prompts, chats, and answers that come piece by piece."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, final

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from paredown.runtimes.serving.requests import Ask, RequestError

_HALF = "\ufffd"
"""What a tokenizer writes for bytes that are no whole character yet."""
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


@final
class Prompts:
    """The tokenizer and the chat template of a folder."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        """Read what lies beside `tokenizer.json`."""
        self.tokenizer = tokenizer
        file = folder / "tokenizer_config.json"
        told: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        template = folder / "chat_template.jinja"
        text = template.read_text() if template.exists() else told.get("chat_template")
        self._template = _environment().from_string(text) if isinstance(text, str) else None
        self._special = {name: _content(told.get(name)) for name in _SPECIAL}

    def ids(self, ask: Ask) -> list[int]:
        """The tokens of a request's prompt.

        Raises:
            RequestError: a chat that the model has no template for, or that its template refuses.
        """
        if isinstance(ask.prompt, str):
            return self.encode(ask.prompt, special=True)
        if not ask.is_chat:
            return [token for token in ask.prompt if isinstance(token, int)]
        if self._template is None:
            raise RequestError("this model has no chat template; use /v1/completions")
        try:
            text = self._template.render(
                messages=ask.prompt, add_generation_prompt=True, tools=None, documents=None,
                **self._special,
            )  # fmt: skip
        except TemplateError as error:
            raise RequestError(f"the model's chat template refuses it: {error}") from None
        # The template writes the special tokens itself.
        return self.encode(text, special=False)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids; `special` puts those around it that the tokenizer puts around a text."""
        return list(self.tokenizer.encode(text, add_special_tokens=special).ids)


def _content(token: object) -> str:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers renders chat templates: a sandbox, for templates come with models."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(value: object, indent: int | None = None) -> str:
    # Jinja's own escapes what HTML would misread.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise TemplateError(message)


@final
class Writing:
    """An answer as it grows: text is handed out once it can no longer change.

    Held back are bytes that are no whole character yet, and an end that may become a stop sequence.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: list[int], stops: tuple[str, ...]) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        # Decoded behind a few tokens of the prompt: alone, some decoders take the first blank away.
        self._ids = prompt[-4:]
        self._start, self._end = 0, len(self._ids)
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that is certain with one more token."""
        self._ids.append(token)
        text = self._decode(self._start, len(self._ids))
        known = self._decode(self._start, self._end)
        if text.endswith(_HALF) or len(text) <= len(known):
            return ""
        self._start, self._end = self._end, len(self._ids)
        return self._release(text[len(known) :])

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        known = self._decode(self._start, self._end)
        rest = self._decode(self._start, len(self._ids))[len(known) :]
        self._end = len(self._ids)
        text = "" if self.stopped else self._release(rest) + self._held
        self._held = ""
        return text

    def _decode(self, start: int, end: int) -> str:
        return str(self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True))

    def _release(self, text: str) -> str:
        whole = self._held + text
        places = [place for stop in self._stops if (place := whole.find(stop)) >= 0]
        if places:
            self.stopped, self._held = True, ""
            return whole[: min(places)]
        held = max((_overlap(whole, stop) for stop in self._stops), default=0)
        self._held = whole[len(whole) - held :]
        return whole[: len(whole) - held]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` with which `stop` begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
