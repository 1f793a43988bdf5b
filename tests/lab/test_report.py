"""The report in every language: nothing left out, nothing obeyed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paredown import lab
from paredown.lab.checkpoints import STAGES
from paredown.lab.pages import Bullets, Document, Section, Table, html, markdown
from paredown.lab.report import Story, report
from paredown.lab.sentences import BUILT_IN_PROMPTS, SENTENCES, Words
from paredown.language import LANGUAGES, Language
from tests.lab.samples import case, design

CODE = "\n".join(
    p.read_text() for p in Path(lab.__file__).parent.glob("*.py") if p.name != "sentences.py"
)


def told(language: Language, **changes: object) -> Document:
    found = case(**changes)  # type: ignore[arg-type]
    story = Story(
        case=found, design=design(), folder=Path("/labs/x"), file=Path("lab.yaml"), version="1"
    )
    return report(story, language)


def test_every_sentence_is_used() -> None:
    made_up = {"state", "verdict", "head", "col", "constraint", "fact", "fault", "quantity"}
    unused = [
        name for name in SENTENCES
        if f'"{name}"' not in CODE and name.partition("_")[0] not in made_up
        and name.removeprefix("next_") not in {"serve", "check", "bench"}
    ]  # fmt: skip
    assert unused == []
    columns = [n.removeprefix("col_") for n in SENTENCES if n.startswith("col_")]
    assert [name for name in columns if f'"{name}"' not in CODE] == []


def test_a_value_that_is_missing_is_a_bug_and_no_gap() -> None:
    with pytest.raises(KeyError):
        Words("en")("title")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_report_is_whole_in_every_language(language: Language) -> None:
    document = told(language)
    assert len(document.sections) == 11
    for text in (markdown(document), html(document)):
        for seen in ("gptq(bits=4)", "L4", "Paris is the capital", "0.40"):
            assert seen.replace("_", r"\_") in text or seen in text
        assert "{" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    assert f'<html lang="{language}">' in html(document)
    own = Words(language)("head_risks")
    assert f"## {own}" in markdown(document)


@pytest.mark.parametrize("changes", [{"episode": None}, {"episode": 0}, {"limits": ()}])
def test_a_report_without_an_artifact_says_so(changes: dict[str, object]) -> None:
    text = markdown(told("en", **changes))
    verdicts = {None: "nothing to deploy", 0: "Deploy the uncompressed model", 4: "in a pilot"}
    assert verdicts[changes.get("episode", 4)] in text  # type: ignore[index]


def test_foreign_words_are_text() -> None:
    rows = (("a|b", "<script>alert(1)</script>\n# no heading"),)
    document = Document(
        language="en", title="*t*", lead=("`x`",),
        sections=(Section("s", (Table(("c", "d"), rows), Bullets(("[l](u)",)))),),
    )  # fmt: skip
    page, text = html(document), markdown(document)
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; # no heading" in page
    assert r"| a\|b | &lt;script>alert(1)&lt;/script> \# no heading |" in text
    assert r"# \*t\*" in text
    assert r"- \[l\](u)" in text


def test_built_in_prompts_are_in_four_languages() -> None:
    prompts = BUILT_IN_PROMPTS
    assert len(prompts) == len(set(prompts)) == 8
    assert any("台北" in p for p in prompts)
    assert any("東京" in p for p in prompts)
    assert sum(p.isascii() for p in prompts) == 2
    assert len(STAGES) == 4
