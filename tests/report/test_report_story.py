"""What each decision expected and got, and what the LLM took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paredown.report.findings import find
from paredown.report.markdown import report_markdown
from paredown.report.story import expected_and_got, llm_line
from tests.report.report_samples import failed, point, record, several


def asked(**fields: Any) -> dict[str, Any]:
    usual = {"event": "llm", "outcome": "pipeline", "sent": 1000, "received": 50,
             "counted": "reported", "usd": 0.003}  # fmt: skip
    return usual | fields


def test_expected_stands_beside_what_was_measured() -> None:
    result = point(1, "gptq(bits=4)", 1.05, 0.5, 0.8, 0.7)
    told = {"perplexity": 22.0, "compression_ratio": 2.0, "seconds": 9.0}
    assert expected_and_got(result.model_copy(update={"expected": told})) == (
        "perplexity 22 → 21, ratio 2 → 2"
    )
    assert expected_and_got(failed(2).model_copy(update={"expected": told})) == (
        "perplexity 22 → -, ratio 2 → -"
    )
    assert expected_and_got(result) == "-"


def test_the_llm_is_accounted_for() -> None:
    assert llm_line(()) is None
    silent = asked(outcome="no_answer", sent=0, received=0, counted=None, usd=None)
    assert llm_line((asked(), asked(outcome="unusable"), silent)) == (
        "LLM: 3 questions, 1 usable answers, 2100 tokens, $0.0060"
    )
    assert "not known" in str(llm_line((asked(usd=None),)))


def test_the_report_tells_why(tmp_path: Path) -> None:
    events = (
        {"event": "decision", "episode": 2, "reason": "it widens | the front", "policy": "x"},
        asked(),
    )
    text = report_markdown(find(record(tmp_path / "e", several(), events=events)), "all used")
    assert "## Decisions" in text
    assert "it widens \\| the front" in text
    assert "1050 tokens" in text
