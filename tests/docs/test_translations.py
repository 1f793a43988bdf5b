"""The pages in four languages say the same: commands, outputs, numbers, links, terms."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from paredown.cli.main import app
from paredown.language import LANGUAGES, Language, say, speaking

ROOT = Path(__file__).parents[2]
TRANSLATED = tuple(language for language in LANGUAGES if language != "en")
PAGES = ("README.md", "docs/tutorial.md", "docs/glossary.md")
NAMES = {"en": "English", "zh-TW": "繁體中文", "zh-CN": "简体中文", "ja": "日本語"}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"(^| +)# .*$", re.MULTILINE)


def path(page: str, language: Language) -> Path:
    suffix = "" if language == "en" else f".{language}"
    return ROOT / f"{page.removesuffix('.md')}{suffix}.md"


def text(page: str, language: Language) -> str:
    return path(page, language).read_text(encoding="utf-8")


def code(page: str, language: Language) -> list[tuple[str, str]]:
    """Its blocks without comments, which are words; blocks of output have none."""
    return [
        (kind, body if body.startswith("demo: ") else _COMMENT.sub("", body))
        for kind, body in BLOCK.findall(text(page, language))
    ]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_each_page_leads_to_the_others(page: str, language: Language) -> None:
    line = text(page, language).splitlines()[0]
    links = {
        other: f"[{NAMES[other]}]({path(page, other).name})"
        for other in LANGUAGES
        if other != language
    }
    words = [links.get(other, NAMES[other]) for other in LANGUAGES]
    assert line == " | ".join(words)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("language", TRANSLATED)
def test_code_is_the_same_to_the_byte(page: str, language: Language) -> None:
    assert code(page, language) == code(page, "en")


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
@pytest.mark.parametrize("language", TRANSLATED)
def test_headings_tables_and_numbers_are_the_same(page: str, language: Language) -> None:
    mine, theirs = (BLOCK.sub("", text(page, each)) for each in (language, "en"))
    for what in (r"^(#+) ", r"^(\|)", r"\d+\.\d+", r"`([^`\n]*)`"):
        found, english = (re.findall(what, t, re.MULTILINE) for t in (mine, theirs))
        assert set(found) >= set(english)
        if what.startswith("^"):
            assert found == english


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_glossary_explains_the_same_words(language: Language) -> None:
    page = text("docs/glossary.md", language)
    entries = re.findall(r"^\*\*.+?\*\*", page, re.MULTILINE)
    examples = re.findall(r"^\*(?:Example|例)[:*]", page, re.MULTILINE)
    assert len(entries) == len(examples) == 18


def test_the_catalogues_use_the_terms_of_the_glossary() -> None:
    table = text("docs/glossary.md", "en").partition("## Terms in four languages")[2]
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()
            if line.startswith("| ")][1:]  # fmt: skip
    said_otherwise, checked = [], 0
    for english, *terms in rows:
        for language, term in zip(TRANSLATED, terms, strict=True):
            with speaking(language):
                said = say(english)
            if said != english:
                checked += 1
                said_otherwise += [(language, english, said, term)] if said != term else []
    assert said_otherwise == []
    assert checked > 60


@pytest.mark.parametrize("language", LANGUAGES)
def test_links_of_the_readme_lead_somewhere(language: Language) -> None:
    for link in re.findall(r"\]\(([^)#]+)", text("README.md", language)):
        if "://" not in link:
            assert (ROOT / link).exists(), link


def commands() -> list[str]:
    """Every command of the package that a page shows, in any language."""
    found = [
        line.strip()
        for page in PAGES
        for language in LANGUAGES
        for kind, body in code(page, language)
        if not kind
        for line in body.splitlines()
    ]
    return sorted({c for c in found if c.startswith(("paredown ", "PAREDOWN_"))})


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one_of_ours(command: str) -> None:
    """It is taken apart as the command line does it, up to the point where it would run."""
    words = [w for w in shlex.split(command) if not w.startswith("PAREDOWN_")][1:]
    found: click.Command = typer.main.get_command(app)  # type: ignore[assignment]
    context: click.Context | None = None
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        context = click.Context(found, parent=context)
        found = found.get_command(context, words.pop(0))  # type: ignore[assignment]
        assert found is not None, command
    if words != ["--version"]:
        found.make_context(found.name, words, parent=context)
