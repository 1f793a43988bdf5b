"""Which language is spoken, and that a sentence is said whole in it."""

from __future__ import annotations

import pytest

from paredown.errors import ConfigError
from paredown.language import (
    LANGUAGES,
    Language,
    clauses,
    current,
    listed,
    matching,
    preferred,
    say,
    say_many,
    speaking,
)
from paredown.language.recorded import recorded


@pytest.mark.parametrize(
    ("tag", "language"),
    [
        ("zh_TW.UTF-8", "zh-TW"), ("zh-Hant", "zh-TW"), ("zh_HK", "zh-TW"), ("zh_CN", "zh-CN"),
        ("zh-Hans-CN", "zh-CN"), ("zh", "zh-CN"), ("ja_JP.eucJP@x", "ja"), ("JA", "ja"),
        ("en_GB", "en"), ("C.UTF-8", "en"), ("POSIX", "en"), ("de_DE", None), ("", None),
    ],
)  # fmt: skip
def test_a_locale_has_its_language(tag: str, language: Language | None) -> None:
    assert matching(tag) == language


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "ja_JP.UTF-8"}, "ja"),
        ({"LANG": "ja_JP.UTF-8", "LC_ALL": "zh_TW.UTF-8"}, "zh-TW"),
        ({"LANG": "ja_JP.UTF-8", "LC_MESSAGES": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "de:zh_CN:ja"}, "zh-CN"),
        ({"LANGUAGE": "", "LANG": "ja_JP"}, "ja"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
    ],
)
def test_the_locale_is_asked_as_gettext_asks_it(
    environment: dict[str, str], language: Language
) -> None:
    assert preferred(None, environment) == language
    assert preferred("ja", environment) == "ja"


def test_a_language_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="lang = 'de': there is en, zh-TW, zh-CN, ja"):
        preferred("de")


def test_a_sentence_is_said_in_the_language_of_the_block() -> None:
    assert say("at most {count}", count=3) == "at most 3"
    with speaking("zh-TW"):
        assert say("at most {count}", count=3) == "至多 3"
        with speaking("ja"):
            assert current() == "ja"
            assert say("at most {count}", count=3) == "最大 3"
        assert current() == "zh-TW"
    assert current() == "en"


def test_what_is_not_in_the_catalogue_and_a_missing_value() -> None:
    with speaking("ja"):
        assert say("GB") == "GB"
        with pytest.raises(KeyError):
            say("at most {count}")


def test_one_and_many() -> None:
    one, many = "{n} more reason", "{n} more reasons"
    assert [say_many(one, many, n) for n in (1, 2)] == ["1 more reason", "2 more reasons"]
    with speaking("zh-CN"):
        assert [say_many(one, many, n) for n in (1, 2)] == ["另有 1 个原因", "另有 2 个原因"]


def test_lists_have_the_marks_of_their_language() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert clauses(["a", "", "b"]) == "a; b"
    with speaking("zh-TW"):
        assert (listed(["a", "b"]), clauses(["a", "b"])) == ("a、b", "a；b")


def test_what_a_record_says_is_said_again() -> None:
    warm = "warm start (1 of 3)"
    both = "plain transformers loads it (checked); my own note"
    assert recorded(warm) == warm
    with speaking("zh-TW"):
        assert recorded(warm) == "暖啟動（3 個中的第 1 個）"
        assert recorded(both) == "一般的 transformers 可載入（已檢查）；my own note"
        assert recorded("its words; and more of them") == "its words; and more of them"
        paired = (
            "paired with the base token by token; text pydoc; 8 windows of 512 tokens without "
            "overlap, 4088 scored tokens; standard error over windows"
        )
        assert recorded(paired).startswith("與原模型逐詞元配對；文字 pydoc；8 個")


def test_every_language_has_its_catalogue() -> None:
    said = set()
    for language in LANGUAGES:
        with speaking(language):
            said.add(say("limits"))
    assert len(said) == len(LANGUAGES)
