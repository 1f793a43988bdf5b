"""Sentences for people, in the language of whoever reads them.

Code says English: `say("episode {number}: {what}", number=3, what=verdict)`. The sentence is looked
up in the catalogue of the current language (gettext's files under `locale/`) and its values are
filled in afterwards, so that a translator has the whole sentence and may order it freely.

The current language is English unless a caller says otherwise (`with speaking("ja"): ...`), and it
is said around the making of a page only: what an experiment records is English always, so that
records, logs and JSON read the same everywhere. `recorded` finds such a sentence again and says it
in the current language.

`docs/catalogues.py` collects the sentences of the source into the catalogues and compiles them; a
test sees that none is missing.
"""

from __future__ import annotations

import gettext
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from paredown.errors import ConfigError

Language = Literal["en", "zh-TW", "zh-CN", "ja"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
DOMAIN = "paredown"
_VARIABLES = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
"""As gettext asks them; the first that is set counts."""
_TRADITIONAL = {"tw", "hk", "mo", "hant"}
_current: ContextVar[Language] = ContextVar("language", default="en")


def say(message: str, /, **values: object) -> str:
    """A sentence in the current language, with its values filled in.

    Args:
        message: English, a literal, with `{name}` for each value.
        values: by name; shown as `str` does.

    Raises:
        KeyError: a value of the sentence is not given.
    """
    return _filled(_catalogue(_current.get()).gettext(message), values)


def say_many(one: str, many: str, n: int, /, **values: object) -> str:
    """`say` of whichever of two sentences suits a number, which they show as `{n}`."""
    return _filled(_catalogue(_current.get()).ngettext(one, many, n), {"n": n, **values})


def marked(message: str) -> str:
    """The message as it is; it will be said later, by `say` or `recorded`."""
    return message


def headings(*messages: str) -> tuple[str, ...]:
    """Columns of a table, as they are: code knows a column by its English heading, and `say` says
    it where the table is shown."""
    return messages


def listed(parts: Iterable[str]) -> str:
    """Words or phrases one after the other: `a, b, c`."""
    return say(", ").join(parts)


def clauses(parts: Iterable[str]) -> str:
    """Clauses one after the other, empty ones left out: `a; b; c`."""
    return say("; ").join(filter(None, parts))


@contextmanager
def speaking(language: Language) -> Iterator[None]:
    """Within it `say` says sentences in this language."""
    token = _current.set(language)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Language:
    """The language of `say`."""
    return _current.get()


def preferred(asked: str | None = None, environment: Mapping[str, str] | None = None) -> Language:
    """The language that was asked for, else that of the locale, else English.

    Args:
        asked: such as `zh-TW`; `zh_tw` will do.
        environment: of the process, if None.

    Raises:
        ConfigError: `asked` is none of ours; a locale of which there is no catalogue is English.
    """
    if asked is not None:
        found = matching(asked)
        if found is None:
            raise ConfigError(f"lang = {asked!r}: there is {', '.join(LANGUAGES)}")
        return found
    environment = os.environ if environment is None else environment
    wanted = next((value for name in _VARIABLES if (value := environment.get(name))), "")
    return next(filter(None, map(matching, wanted.split(":"))), "en")


def matching(tag: str) -> Language | None:
    """Ours for a locale or a tag, such as `ja_JP.UTF-8`, `zh-Hant`, `C`; None where there is none.

    Chinese without a region or a script is that of most of its readers, the simplified one.
    """
    name, *others = tag.partition(".")[0].partition("@")[0].replace("_", "-").lower().split("-")
    match name:
        case "zh":
            return "zh-TW" if _TRADITIONAL.intersection(others) else "zh-CN"
        case "ja":
            return "ja"
        case "en" | "c" | "posix":
            return "en"
        case _:
            return None


def _filled(text: str, values: Mapping[str, object]) -> str:
    return text.format_map({name: str(value) for name, value in values.items()})


@cache
def _catalogue(language: Language) -> gettext.NullTranslations:
    """The compiled catalogue; none is needed for English, the language of the source."""
    if language == "en":
        return gettext.NullTranslations()
    place = files("paredown.language").joinpath("locale", directory(language), "LC_MESSAGES")
    with place.joinpath(f"{DOMAIN}.mo").open("rb") as file:
        return gettext.GNUTranslations(file)


def directory(language: Language) -> str:
    """As gettext calls it: `zh_TW`."""
    return language.replace("-", "_")
