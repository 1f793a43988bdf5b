"""Report, page and terminal in every language: whole, and nothing of another language in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from paredown.cli.main import app
from paredown.language import LANGUAGES, Language, speaking
from paredown.report.documents import final_document
from paredown.report.findings import find
from paredown.report.html import front_html
from paredown.report.markdown import report_markdown
from paredown.report.write import write_report
from paredown.spec.result import LoadsIn
from paredown.spec.serial import plain
from paredown.store.experiment import ExperimentRecord
from tests.report.report_samples import baseline, failed, point, record, scored, several

TRANSLATED = tuple(language for language in LANGUAGES if language != "en")
_CODE = re.compile(r"```.*?```|`[^`]*`|<(script|style)>.*?</\1>|<[^>]*>", re.DOTALL)
_ENGLISH = re.compile(r"\b[A-Za-z]{2,}(?: [a-z]{2,}){2,}")
"""Three words or more, but for names: no other language of ours writes so."""
_OF_THE_FIXTURE = ("protocol of", "one question at", "used more than")
"""Its own words of how it measures and fails, which are nobody's sentences."""
EVENTS: tuple[dict[str, Any], ...] = (
    {"event": "started", "strategies": 40, "methods": ["gptq", "awq", "rtn"]},
    {"event": "note", "text": "3 passages stand in the evaluation text too, and are left out of "
     "calibration"},
    {"event": "skills", "known": 2},
    {"event": "decision", "episode": 1, "policy": "portfolio", "strategy": None,
     "reason": "opening: a method not seen yet"},
    {"event": "decision", "episode": 2, "policy": "portfolio:surrogate", "strategy": None,
     "reason": "expected to add most per second: 0.52% of the box of trade-offs in 31 s "
     "[surrogate: due 40% of the cost, used 12%]"},
    {"event": "refused", "strategy": "bf16",
     "reason": "bf16: the weights are BF16 already; leave the step out"},
    {"event": "llm", "counted": "reported", "usd": 0.01, "outcome": "used", "sent": 9,
     "received": 3},
    {"event": "energy", "kwh": 0.02, "kg_co2e": 0.01, "seconds": 60, "country": "world",
     "codecarbon": "3.3", "left_out": 2},
    {"event": "remembered", "new": 3, "demoted": []},
)  # fmt: skip


def experiment(folder: Path, **config: Any) -> ExperimentRecord:
    base, first, *others, lost = several()
    loads = (
        LoadsIn(runtime="transformers", known="checked"),
        LoadsIn(runtime="vllm", known="documented"),
        LoadsIn(runtime="openvino", known="untested", detail="experts"),
    )
    results = (
        scored(base, 0.6),
        scored(first.model_copy(update={"loads_in": loads, "artifact": "episode_001/artifact"}),
               0.59),
        *(scored(r, 0.3).model_copy(update={"unmet": ("quality loss 50 % > 10 %",)})
          for r in others),
        lost,
    )  # fmt: skip
    asked = {"data": ["pydoc"], "limits": {"max_accuracy_loss": 10, "max_memory_gb": 2}}
    return record(folder, results, events=EVENTS, **(asked | config))


def report(found: ExperimentRecord, language: Language) -> str:
    with speaking(language):
        return report_markdown(find(found), "all episodes are used")


def page(found: ExperimentRecord, language: Language) -> str:
    with speaking(language):
        return front_html(find(found), "all episodes are used")


def english_in(text: str) -> list[str]:
    found: list[str] = _ENGLISH.findall(_CODE.sub(" ", text))
    return [words for words in found if not words.startswith(_OF_THE_FIXTURE)]


@pytest.mark.parametrize("language", TRANSLATED)
def test_no_english_sentence_is_left_over(language: Language, tmp_path: Path) -> None:
    found = experiment(tmp_path / "x")
    assert english_in(report(found, "en")) != []
    assert english_in(report(found, language)) == []
    assert english_in(page(found, language)) == []


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_heading_and_column_is_translated(language: Language, tmp_path: Path) -> None:
    found = experiment(tmp_path / "x")
    mine, theirs = report(found, language), report(found, "en")
    headings, english = (re.findall(r"^##+ (.+)$", t, re.MULTILINE) for t in (mine, theirs))
    assert len(headings) == len(english)
    assert not set(headings) & set(english)
    heads = re.findall(r"^\| (.+) \|\n\|(?: --- \|)+$", mine, re.MULTILINE)
    assert len(heads) > 5
    assert {cell for line in heads for cell in line.split(" | ") if cell.isascii()} == {"#"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_numbers_and_commands_are_the_same(language: Language, tmp_path: Path) -> None:
    found = experiment(tmp_path / "x")
    mine, theirs = report(found, language), report(found, "en")
    for same in (r"(?s)```.*?```", r"`[^`\n]+`", r"\d+\.\d+"):
        assert set(re.findall(same, mine)) == set(re.findall(same, theirs))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_says_its_language_and_has_its_letters(language: Language, tmp_path: Path) -> None:
    head = page(record(tmp_path / "x", ()), language).partition("</style>")[0]
    assert head.startswith(f'<!DOCTYPE html>\n<html lang="{language}">')
    own = {"en": "system-ui", "zh-TW": "CJK TC", "zh-CN": "CJK SC", "ja": "CJK JP"}
    assert own[language] in head


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "results",
    [
        (),
        (baseline(),),
        (baseline(), failed(1)),
        (baseline(), point(1, "int8", 1.4, 0.9, 1.2, 1.1)),
    ],
)
def test_where_little_is_there_it_is_said_too(
    language: Language, results: tuple[Any, ...], tmp_path: Path
) -> None:
    found = record(tmp_path / "x", results, limits={"max_memory_gb": 0.1, "min_speedup": 2})
    assert bool(english_in(report(found, language))) == (language == "en")


def test_what_programs_read_is_english_in_every_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paredown.report.figures.search_space_png", lambda _: b"drawn elsewhere")
    monkeypatch.setattr("paredown.report.score_figure.scores_png", lambda _: b"drawn elsewhere")
    found = experiment(tmp_path / "x", lang="ja")
    write_report(found, "all episodes are used")
    names = ("final_results.json", "pareto_frontier.json", "search_history.csv", "report.md")
    read = {name: (found.folder / name).read_text() for name in names}
    assert json.loads(read["final_results.json"]) == plain(
        final_document(find(found), "all episodes are used")
    )
    assert all(text.isascii() for name, text in read.items() if name != "report.md")
    assert "## 結果" in read["report.md"]
    assert '<html lang="ja">' in (found.folder / "pareto_visualization.html").read_text()


@pytest.mark.parametrize(
    ("options", "variables", "heading"),
    [
        (["--lang", "zh_tw"], {}, "## 試了什麼，為何"),
        ([], {"LANGUAGE": "zh_CN"}, "## 试了什么，为何"),
        (["--lang", "en"], {"LANGUAGE": "zh_CN"}, "## What was tried, and why"),
        ([], {"LANGUAGE": "", "LC_ALL": "", "LC_MESSAGES": "", "LANG": "de_DE"},
         "## What was tried, and why"),
    ],
)  # fmt: skip
def test_the_option_wins_over_the_locale(
    options: list[str], variables: dict[str, str], heading: str, tmp_path: Path
) -> None:
    folder = experiment(tmp_path / "x").folder
    found = CliRunner(env=variables).invoke(app, ["report", str(folder), "-f", "md", *options])
    assert heading in found.output


@pytest.mark.parametrize("detail", ["summary", "detailed"])
@pytest.mark.parametrize("language", TRANSLATED)
def test_the_terminal_speaks_it_too(language: Language, detail: str, tmp_path: Path) -> None:
    folder = experiment(tmp_path / "x", lang=language).folder
    found = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["analyze", str(folder), "-f", detail])
    assert found.exit_code == 0, found.output
    assert english_in(found.output) == []
    heads = re.findall(r"^(#  .+)\n─", found.output, re.MULTILINE)
    assert heads
    assert not any(re.search(r" [a-z]{2,}", head) for head in heads), heads


def test_an_unknown_language_is_refused_with_those_there_are(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "x").folder
    found = CliRunner().invoke(app, ["report", str(folder), "--lang", "fr"])
    assert "there is en, zh-TW, zh-CN, ja" in str(found.exception)
