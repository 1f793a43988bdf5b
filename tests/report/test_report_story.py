"""The story of a run: the same in Markdown and HTML, and true to the folder."""

from __future__ import annotations

from html import unescape
from pathlib import Path
from typing import Any

import pytest

from paredown.report.cost import llm_cost
from paredown.report.documents import final_document
from paredown.report.findings import Judged, find
from paredown.report.html import front_html
from paredown.report.markdown import report_markdown
from paredown.report.story import Section, expected_and_got, llm_line, story, who
from paredown.spec.result import TrialResult
from paredown.spec.serial import plain
from tests.report.report_samples import failed, findings, point, record, several


def asked(**fields: Any) -> dict[str, Any]:
    usual = {"event": "llm", "outcome": "pipeline", "sent": 1000, "received": 50,
             "counted": "reported", "usd": 0.003, "seconds": 2.0}  # fmt: skip
    return usual | fields


def user(command: str, **fields: Any) -> dict[str, Any]:
    return {"event": "user", "command": command, **fields}


def proposed_by(*names: str) -> tuple[TrialResult, ...]:
    """The samples, each trial proposed by one of these."""
    base, *trials = several()
    named = zip(trials, names, strict=True)
    return base, *(r.model_copy(update={"proposed_by": name}) for r, name in named)


def told(folder: Path, *events: dict[str, Any]) -> Judged:
    names = ("start", "portfolio:llm", "user", "portfolio:bayesian", "portfolio")
    return find(record(folder, proposed_by(*names), events=events))


def section(found: Judged, title: str) -> Section:
    return next(s for s in story(found) if s.title == title)


def test_expected_stands_beside_what_was_measured() -> None:
    result = point(1, "gptq(bits=4)", 1.05, 0.5, 0.8, 0.7)
    wanted = {"perplexity": 22.0, "compression_ratio": 2.0, "seconds": 9.0}
    assert expected_and_got(result.model_copy(update={"expected": wanted})) == (
        "perplexity 22 → 21, ratio 2 → 2"
    )
    assert expected_and_got(failed(2).model_copy(update={"expected": wanted})) == (
        "perplexity 22 → -, ratio 2 → -"
    )
    assert expected_and_got(result) == "-"


def test_how_far_expectations_were_off(tmp_path: Path) -> None:
    base, *trials = several()
    wanted: list[dict[str, float]] = [
        {"seconds": 5.0, "compression_ratio": 2.0}, {"compression_ratio": 1 / 0.35}, {}, {},
        {"seconds": 1.0},
    ]  # fmt: skip
    results = [r.model_copy(update={"expected": w}) for r, w in zip(trials, wanted, strict=True)]
    found = findings(tmp_path / "x", (base, *results))
    # int8 came out at 1/0.55 instead of 2 (9.1 % off), gptq as expected; 10 s instead of 5.
    # The failed trial says nothing.
    assert section(found, "What was tried, and why").lines == [
        "Expectations were off, in the median: ratio by 4.5% (n = 2), time by 100.0% (n = 1)."
    ]


def test_the_llm_is_accounted_for(tmp_path: Path) -> None:
    assert llm_line(()) is None
    assert llm_cost(()) is None
    silent = asked(outcome="no_answer", sent=0, received=0, counted=None, usd=None, seconds=None)
    events = (asked(), asked(outcome="unusable", counted="estimated"), silent)
    assert llm_line(events) == (
        "LLM: 3 questions, 1 usable answers, 2100 tokens (2000 sent, 100 received), $0.0060"
    )
    assert "not known" in str(llm_line((asked(usd=None),)))
    assert final_document(told(tmp_path / "x", *events), None)["cost"]["llm"] == {
        "questions": 3, "usable": 1, "sent": 2000, "received": 100, "estimated": 1, "usd": 0.006,
        "seconds": 4.0,
    }  # fmt: skip
    assert final_document(told(tmp_path / "y"), None)["cost"]["llm"] is None


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        ("user", "the user"),
        ("start", "skills"),
        ("portfolio", "opening (each method once)"),
        ("portfolio:llm", "the LLM"),
        ("portfolio:bayesian", "bayesian search"),
        ("grid", "grid search"),
        (None, "unknown"),
    ],
)
def test_who_has_a_name(policy: str | None, name: str) -> None:
    assert who(policy) == name


def test_who_found_what(tmp_path: Path) -> None:
    part = section(told(tmp_path / "x"), "Who found what")
    assert {row[0]: (*row[1:4], row[5]) for row in part.rows} == {
        "skills": ("1", "0", "1", "episode 1"),
        "the LLM": ("1", "0", "1", "episode 2"),
        "the user": ("1", "0", "1", "episode 3"),
        "bayesian search": ("1", "0", "0", "-"),
        "opening (each method once)": ("1", "1", "0", "-"),
    }
    assert part.lines == ["The recommended one was found by: the LLM."]


def test_what_was_learned_of_each_method(tmp_path: Path) -> None:
    part = section(told(tmp_path / "x"), "What was learned")
    rows = {row[0]: row[1:] for row in part.rows}
    assert rows["gptq"] == ("2", "0", "2", "+4.0 % to +60.0 %", "2.86x to 3.57x")
    assert rows["rtn"] == ("2", "1", "0", "+20.0 %", "2.78x")
    assert rows["l2_structured"][0] == "1"


def test_what_became_of_skills(tmp_path: Path) -> None:
    events = (
        {"event": "skills", "known": 4, "start": []},
        {"event": "remembered", "new": 5, "demoted": ["rtn(bits=2)"]},
    )
    lines = section(told(tmp_path / "x", *events), "What was learned").lines
    assert lines[0] == (
        "Skills: 4 known for such models; tried first: 1; confirmed: int8; did not hold up: none."
    )
    assert lines[1].endswith("what 5 strategies gave; skills demoted by that: rtn(bits=2).")


def test_what_was_not_tried(tmp_path: Path) -> None:
    refused = [{"event": "refused", "strategy": f"x(bits={n})", "reason": "too wide"}
               for n in range(3)]  # fmt: skip
    others = [{"event": "refused", "strategy": f"y{n}", "reason": f"reason {n}"} for n in range(20)]
    pipeline = "l2_structured(ratio=0.2) > gptq(bits=4)"
    found = told(
        tmp_path / "x",
        {"event": "started", "strategies": 10, "methods": ["int8", "gptq", "rtn", "awq"]},
        *others, *refused,
        user("try", label=pipeline, in_space=False),
        user("exclude", method="awq"), user("exclude", method="hqq"), user("include", method="hqq"),
    )  # fmt: skip
    part = section(found, "What was not tried")
    assert list(part.lines[:3]) == [
        "6 of the 10 strategies of the search space.",  # one of five was not in it
        "Methods of the space that were never tried: awq.",
        "Excluded by the user: awq.",
    ]
    assert part.rows[0] == ("3", "x(bits=0)", "too wide")
    assert part.rows[-1] == ("9", "-", "9 more reasons")
    assert sum(int(row[0]) for row in part.rows) == 23


def test_both_reports_tell_all_of_it(tmp_path: Path) -> None:
    events = (
        {"event": "decision", "episode": 2, "reason": "it widens | the <b>front", "policy": "x"},
        {"event": "started", "strategies": 10, "methods": ["awq"]},
        asked(),
    )
    found = told(tmp_path / "e", *events)
    text, page = report_markdown(found, "all used"), front_html(found, "all used")
    assert "it widens \\| the &lt;b>front" in text
    assert "it widens | the &lt;b&gt;front" in page
    shown = unescape(page)
    for part in story(found):
        assert f"## {part.title}" in text
        assert f"<h2>{part.title}</h2>" in page
        assert all(line in shown for line in part.lines)
        assert all(cell in shown for row in part.rows for cell in row)
    for words in ("all used", "Runner-up: episode 1", "1000 sent, 50 received"):
        assert words in shown
        assert words in text


def test_the_words_of_an_llm_that_led_are_quoted_as_its_own(tmp_path: Path) -> None:
    base, *trials = several()
    led = (base, *(r.model_copy(update={"proposed_by": "lead:llm"}) for r in trials))

    def decided(result: TrialResult, **fields: Any) -> dict[str, Any]:
        usual = {"event": "decision", "episode": result.episode, "policy": "lead:llm",
                 "strategy": plain(result.strategy), "reason": "a reason"}  # fmt: skip
        return usual | fields

    events = (
        decided(trials[0], learned=None),  # nothing was known before the first
        decided(trials[1], strategy=plain(trials[2].strategy), learned="never carried out"),
        decided(trials[1], learned="4 bits | cost <b>little</b>"),
        decided(trials[1], reason="was interrupted; runs again"),
    )
    found = find(record(tmp_path, led, events=events))
    part = section(found, "What the LLM says it learned")
    number = str(trials[1].episode)
    assert part.rows == [(number, "“4 bits | cost <b>little</b>”")]
    assert "These are its words" in part.lines[0]
    for text in (report_markdown(found, None), front_html(found, None)):
        assert "<b>little" not in text
        assert "never carried out" not in text
    assert "4 bits \\| cost" in report_markdown(found, None)


def test_a_run_that_no_llm_led_has_no_such_section(tmp_path: Path) -> None:
    titles = [part.title for part in story(told(tmp_path))]
    assert "What the LLM says it learned" not in titles
