"""Collects the sentences of the source into the catalogues of all languages, and compiles them.

python docs/catalogues.py           after a sentence was added or changed; then translate what is
                                    empty in src/paredown/language/locale/*/LC_MESSAGES/paredown.po
                                    and run it again
python docs/catalogues.py --check   says what is missing or out of date, and fails where anything is

A sentence is a literal in a call of `say`, `say_many`, `marked` or `headings`. The compiled files
are kept beside the others, so that an installation needs no step of its own.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from string import Formatter

from babel.messages.catalog import Catalog, Message
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from paredown.language import DOMAIN, LANGUAGES, directory

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "paredown"
LOCALE = SOURCE / "language" / "locale"
TRANSLATED = tuple(language for language in LANGUAGES if language != "en")
_CALLED = {"say": 1, "say_many": 2, "marked": 1, "headings": None, "_heading": 1}
"""Function -> how many of its arguments are sentences; None: all. Two are one and many."""
_ALWAYS = datetime(2026, 1, 1, tzinfo=UTC)
"""Date in the headers: the same sentences are the same file, whenever it is written."""
MessageId = str | tuple[str, str]


@cache
def sentences() -> dict[MessageId, set[str]]:
    """Every sentence of the source, with the files that say it."""
    found: dict[MessageId, set[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        mine = path.parent.name == "language" or "from paredown.language import" in text
        if not mine:  # another `say`, or none
            continue
        for sentence in _said(ast.parse(text)):
            found.setdefault(sentence, set()).add(path.relative_to(ROOT).as_posix())
    return found


def _said(tree: ast.AST) -> Iterator[MessageId]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        count = _CALLED.get(node.func.id, 0)
        texts = [a.value for a in node.args[:count] if isinstance(a, ast.Constant)]
        if node.func.id == "say_many":
            one, many = texts
            yield str(one), str(many)
        else:
            yield from map(str, texts)


def catalogue(language: str) -> Catalog:
    """All sentences with the translations that are there; those without one are empty."""
    known = Catalog()
    path = _path(language, "po")
    if path.exists():
        with path.open("rb") as file:
            known = read_po(file, locale=directory(language))  # type: ignore[arg-type]
    made = Catalog(
        locale=directory(language), domain=DOMAIN, project="paredown", version="",
        creation_date=_ALWAYS, revision_date=_ALWAYS, fuzzy=False,
        header_comment="# Sentences of paredown; see docs/catalogues.py.",
    )  # fmt: skip
    for sentence, places in sentences().items():
        old = known.get(sentence if isinstance(sentence, str) else sentence[0])
        message = made.add(
            sentence,
            old.string if old is not None and old.id == sentence else None,
            locations=[(place, None) for place in sorted(places)],  # type: ignore[list-item]
            user_comments=() if old is None else tuple(old.user_comments),
        )
        message.flags.discard("python-format")  # "95 % interval" looks like one
    return made


def faults(language: str) -> list[str]:
    """What is wrong with a language: nothing translated, other values, files out of date."""
    made = catalogue(language)
    found = [fault for message in made if message.id for fault in _faults(message)]
    for kind, content in _files(made).items():
        path = _path(language, kind)
        if not path.exists() or path.read_bytes() != content:
            found.append(f"{path.relative_to(ROOT)} is out of date; run docs/catalogues.py")
    return [f"{language}: {fault}" for fault in found]


def _faults(message: Message) -> Iterator[str]:
    one = _texts(message.id)
    other = _texts(message.string)
    if not other or not all(other):
        yield f"not translated: {one[0]!r}"
        return
    wanted = values(one[-1])
    for text in other:
        if values(text) != wanted:
            yield f"other values than {sorted(wanted)}: {text!r}"


def _texts(text: object) -> tuple[str, ...]:
    return tuple(text) if isinstance(text, tuple | list) else (str(text or ""),)


def values(sentence: str) -> set[str]:
    """Names of the values that a sentence shows."""
    return {name for _, name, _, _ in Formatter().parse(sentence) if name is not None}


def _files(made: Catalog) -> dict[str, bytes]:
    """The two files of a catalogue, by their ending."""
    text, compiled = io.BytesIO(), io.BytesIO()
    write_po(text, made, width=100, sort_output=True, include_lineno=False)
    write_mo(compiled, made)
    return {"po": text.getvalue(), "mo": compiled.getvalue()}


def _path(language: str, ending: str) -> Path:
    return LOCALE / directory(language) / "LC_MESSAGES" / f"{DOMAIN}.{ending}"  # type: ignore[arg-type]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        for language in TRANSLATED:
            for ending, content in _files(catalogue(language)).items():
                path = _path(language, ending)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    found = [fault for language in TRANSLATED for fault in faults(language)]
    for fault in found:
        sys.stderr.write(f"{fault}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
