"""Sampling by hand, and texts that come piece by piece."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from paredown.runtimes.serving.requests import parse
from paredown.runtimes.serving.sampling import Sampler, log_softmax
from paredown.runtimes.serving.texts import Writing
from tests.runtimes.serving.fake import byte_tokenizer


def sampler(**fields: object) -> Sampler:
    return Sampler(parse({"prompt": "a", **fields}, is_chat=False))


def test_log_softmax_by_hand() -> None:
    logits = np.log(np.array([1.0, 3.0], np.float32)) + 100
    assert np.exp(log_softmax(logits)) == pytest.approx([0.25, 0.75], rel=1e-5)


def test_draws_follow_temperature_and_top_p() -> None:
    # Temperature 2 takes roots of the chances: 9 : 4 : 1 : 0.01 becomes 3 : 2 : 1 : 0.1.
    logits = np.log(np.array([9.0, 4.0, 1.0, 0.01], np.float32))
    drawing = sampler(temperature=2.0, seed=5)
    counts = Counter(drawing.pick(logits).token for _ in range(6000))
    expected = np.array([3, 2, 1, 0.1]) / 6.1
    for token, chance in enumerate(expected):
        # Five standard errors of a binomial.
        assert counts[token] / 6000 == pytest.approx(
            chance, abs=5 * (chance * (1 - chance) / 6000) ** 0.5
        )
    # 3 / 6.1 = 0.49 alone is less than 0.7, with the second it is 0.82.
    narrow = sampler(temperature=2.0, top_p=0.7, seed=5)
    assert {narrow.pick(logits).token for _ in range(300)} == {0, 1}
    assert {sampler(top_p=0.0, seed=1).pick(logits).token for _ in range(20)} == {0}


def test_the_likeliest_are_told_in_order() -> None:
    picked = sampler(temperature=0, logprobs=2).pick(np.array([0.0, 2.0, 1.0], np.float32))
    assert picked.token == 1
    assert [token for token, _ in picked.top] == [1, 2]
    assert picked.top[0][1] == picked.logprob
    assert picked.top[0][1] - picked.top[1][1] == pytest.approx(1.0)


def written(text: str, stops: tuple[str, ...] = ()) -> list[str]:
    writing = Writing(byte_tokenizer(), list(b"So: "), stops)
    pieces = []
    for token in text.encode():
        pieces.append(writing.add(token))
        if writing.stopped:
            break
    return [*pieces, writing.finish()]


def test_characters_come_whole() -> None:
    assert written("aé😀") == ["a", "", "é", "", "", "", "😀", ""]


def test_half_a_character_at_the_end_is_not_lost() -> None:
    writing = Writing(byte_tokenizer(), list(b"x"), ())
    assert [writing.add(t) for t in "é".encode()[:1]] == [""]
    assert writing.finish() == "\ufffd"


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("abcSTOPdef", ("STOP",), "abc"),
        ("abcSTOdef", ("STOP",), "abcSTOdef"),
        ("abcSTO", ("STOP",), "abcSTO"),
        ("aabaac", ("aac",), "aab"),
        ("one\n\ntwo", ("\n\n", "two"), "one"),
    ],
)
def test_stops(text: str, stops: tuple[str, ...], expected: str) -> None:
    assert "".join(written(text, stops)) == expected
    # Nothing of a stop is handed out before it is certain that it is none.
    for n, _ in enumerate(pieces := written(text, stops)):
        assert not any(stop in "".join(pieces[: n + 1]) for stop in stops)
