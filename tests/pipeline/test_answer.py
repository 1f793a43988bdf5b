"""What a model says to messages: one at a time, timed, in its chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from paredown.pipeline.messages import AnswerJob
from paredown.pipeline.work.answer import answer
from paredown.runtimes.session import Written
from paredown.spec.progress import unheard


class Letters:
    """A tokenizer of single letters."""

    def __init__(self, template: str | None) -> None:
        self.chat_template = template

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [*([0] if add_special_tokens else []), *map(ord, text)]

    def apply_chat_template(self, said: list[dict[str, str]], **_: Any) -> str:
        return f"<{said[0]['content']}>"


class Echo:
    """A session that says how long its prompt was, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], int]] = []
        self.is_open = True

    def generate(
        self, prompts: Sequence[Sequence[int]], *, stops: Sequence[str], max_tokens: int
    ) -> Iterator[tuple[int, Written]]:
        for i, prompt in enumerate(prompts):
            self.asked.append((list(prompt), max_tokens))
            yield i, Written("x" * len(prompt), truncated=False)

    def close(self) -> None:
        self.is_open = False


@pytest.mark.parametrize("template", [None, "yes"])
def test_messages_are_answered_in_their_order(
    template: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Echo()
    module = import_module("paredown.pipeline.work.answer")
    monkeypatch.setattr(module, "open_model", lambda *_, **__: session)
    monkeypatch.setattr(module, "load_tokenizer", lambda *_, **__: Letters(template))
    job = AnswerJob(device="cpu", model=Path("m"), messages=("ab", "c"), max_tokens=7)
    found = answer(job, unheard)
    first, second = (list(map(ord, text)) for text in ("<ab>", "<c>"))
    if template is None:
        first, second = [0, *map(ord, "ab")], [0, *map(ord, "c")]
    # The first text warms up and is not kept.
    assert session.asked == [(first, 1), (first, 7), (second, 7)]
    assert [one.text for one in found.answers] == ["x" * len(first), "x" * len(second)]
    assert [one.tokens for one in found.answers] == [len(first), len(second)]
    assert found.is_chat is (template is not None)
    assert not session.is_open
