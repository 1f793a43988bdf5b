"""The one redactor."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from paredown.spec.redact import first_line, redact, redact_all, shown


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("401 for hf_abcdefghij", "401 for [key]"),
        ("Incorrect API key: sk-proj-12****89.", "Incorrect API key: [key]."),
        ("Authorization: Bearer abc.def", "Authorization: [key]"),
        ("https://me:secret@host/x", "https://[key]@host/x"),
        ("lsv2_pt_0123456789", "[key]"),
        ("a risk-free mask_hf", "a risk-free mask_hf"),
        ("/home/ask-mark/models", "/home/ask-mark/models"),
    ],
)
def test_what_looks_like_a_key(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_values_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "plainwords")
    monkeypatch.setenv("OTHER_TOKEN", "plainwords-and-more")
    monkeypatch.setenv("SHORT_KEY", "abc")
    assert redact("so plainwords-and-more and plainwords, abc") == "so [key] and [key], abc"


def test_the_saved_login_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = SimpleNamespace(get_token=lambda: "unlike-any-key")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert redact("the token unlike-any-key is refused") == "the token [key] is refused"


def test_numbers_are_never_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "12345678")
    value = {"12345678": [12345678, "12345678", None]}
    assert redact_all(value) == {"[key]": [12345678, "[key]", None]}


def test_foreign_words_are_one_short_printable_line() -> None:
    error = OSError("\n\x1b[31mfirst hf_abcdefghij\nsecond")
    assert first_line(error) == " [31mfirst [key]"
    assert first_line(ValueError()) == "ValueError"
    assert len(shown("x" * 1000)) == 300
