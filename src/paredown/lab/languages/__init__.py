"""What a report says, in the language of whoever reads it: one message table for each.

A table is a YAML file of `name: sentence with {values}`; all of them have the same names and the
same values in each sentence, which a test sees to. Names of strategies, measurements and commands
are the same in every language and come as values.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import final

from paredown.spec.lab import LANGUAGES, Language

_VALUE = re.compile(r"\{(\w+)\}")
_PROMPTS = "prompts"


@final
class Words:
    """The sentences of one language."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self._table = table(language)

    def __call__(self, name: str, **values: object) -> str:
        """A sentence with its values filled in.

        Raises:
            KeyError: the table has no such sentence, or the sentence has a value that is not given.
        """
        return self._table[name].format_map({k: str(v) for k, v in values.items()})

    def has(self, name: str) -> bool:
        """Whether there is such a sentence."""
        return name in self._table


@cache
def table(language: Language) -> dict[str, str]:
    """All sentences of a language, by name."""
    return {k: v for k, v in _document(language).items() if isinstance(v, str)}


def values_of(sentence: str) -> set[str]:
    """The names of the values that a sentence takes."""
    return set(_VALUE.findall(sentence))


def built_in_prompts() -> tuple[str, ...]:
    """What base and artifact are asked where the user names nothing, in every language."""
    return tuple(prompt for language in LANGUAGES for prompt in _document(language)[_PROMPTS])


@cache
def _document(language: Language) -> dict[str, str | list[str]]:
    import yaml

    file = files("paredown.lab.languages").joinpath(f"{language}.yaml")
    found: dict[str, str | list[str]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found
