"""What is read of servers' answers, in the shapes in which they come."""

from __future__ import annotations

from typing import Any

import pytest

from paredown.deploy.client import Client
from paredown.deploy.questions import Questioner, _top
from paredown.errors import ServerError
from tests.deploy.fake import ANSWER, running

CANDIDATE = {"id": 67, "bytes": [99], "token": "c", "logprob": -1.0}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, {}),
        ({"content": []}, {}),
        ({"content": [CANDIDATE | {"top_logprobs": [CANDIDATE]}]}, {67: -1.0}),
        # Three tokens in one entry, whose candidates are those of the last: nothing of the first.
        ({"content": [CANDIDATE | {"bytes": [230, 58, 99], "top_logprobs": [CANDIDATE]}]}, {}),
        # OpenAI's chat gives no ids; its older completions a dictionary.
        ({"content": [{"token": "a", "top_logprobs": [{"token": "a", "logprob": -1}]}]},
         {"a": -1.0}),
        ({"top_logprobs": [{"a": -0.5, "b": -2}]}, {"a": -0.5, "b": -2.0}),
        ({"content": [{"top_logprobs": [{"id": 1, "logprob": None}, {"id": 2, "logprob": -3}]}]},
         {2: -3.0}),
    ],
)  # fmt: skip
def test_the_first_tokens_candidates(said: Any, expected: dict[int | str, float]) -> None:
    assert _top(said) == expected


def test_a_streamed_answer_is_the_whole_one() -> None:
    with running("good") as url:
        ask = Questioner(Client(url), "fake")
        streamed = ask.stream("a", max_tokens=5)
        whole = ask.complete("a", max_tokens=5)
    assert streamed.text == whole.text == " ".join(ANSWER.split()[:5]) + " "
    assert (streamed.tokens, streamed.finish, len(streamed.times)) == (5, "length", 5)
    assert list(streamed.times) == sorted(streamed.times)


def test_nonsense_is_no_answer() -> None:
    with running("html") as url, pytest.raises(ServerError, match="no JSON: <html>"):
        Questioner(Client(url), "fake").chat("a", max_tokens=1)
    with running("never says done") as url, pytest.raises(ServerError, match="DONE"):
        Questioner(Client(url), "fake").stream("a", max_tokens=1)
