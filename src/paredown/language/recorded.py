"""Sentences that experiments have recorded in English, said again in the language of a reader.

A record is a fact and stays as it was written. What it says in sentences of ours is known here by
their forms; what is in no form (the words of an engine, a plug-in, a user or an LLM) stays as it
is. A test sees that every form is still what the source says.
"""

from __future__ import annotations

import re
from functools import cache

from paredown.language import clauses, current, say
from paredown.language.forms import FORMS

_VALUE = re.compile(r"\{(\w+)\}")
_ANYTHING = r"(?:[^][]|\[[^][]*\])+?"
"""A value: no half of a pair of brackets, or that of one sentence would reach into the next."""


def recorded(text: str) -> str:
    """A recorded sentence in the current language, or `text` where it is no sentence of ours.

    Of several, one after the other with a semicolon between them, each.
    """
    if current() == "en":
        return text
    for form, pattern in _patterns():
        if found := pattern.fullmatch(text):
            values = {name: recorded(value) for name, value in found.groupdict().items()}
            return say(form, **values)
    parts = text.split("; ")
    said = [recorded(part) for part in parts] if len(parts) > 1 else parts
    return text if said == parts else clauses(said)


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Forms with what matches them; those that say most themselves come first, and before them
    those that begin with words of their own."""
    ordered = sorted(FORMS, key=lambda f: (f.startswith("{"), -len(_VALUE.sub("", f))))
    return tuple((form, re.compile(_pattern(form), re.DOTALL)) for form in ordered)


def _pattern(form: str) -> str:
    parts = _VALUE.split(form)  # text and names in turns
    return "".join(
        f"(?P<{part}>{_ANYTHING})" if i % 2 else re.escape(part) for i, part in enumerate(parts)
    )
