"""What was tried and why, what each decision expected and got, and what the LLM took."""

from __future__ import annotations

from typing import Any

from paredown.report.findings import Findings
from paredown.report.words import NONE, number
from paredown.spec.result import TrialResult

STORY_COLUMNS = ("episode", "strategy", "proposed by", "why", "expected → got", "on the front")
_COMPARED = {"perplexity": "perplexity", "compression_ratio": "ratio", "speedup": "speed"}


def story_rows(findings: Findings) -> list[tuple[str, ...]]:
    """One row per trial, in order."""
    reasons = {
        event.get("episode"): str(event.get("reason", NONE))
        for event in reversed(findings.record.events)
        if event.get("event") == "decision"
    }
    return [
        (
            str(result.episode),
            result.label,
            result.proposed_by or NONE,
            reasons.get(result.episode, NONE),
            expected_and_got(result),
            "yes" if result in findings.front else "no",
        )
        for result in findings.record.trials
    ]


def expected_and_got(result: TrialResult) -> str:
    """`perplexity 16 → 15.8, ratio 2.4 → 2.38`; a failed trial got nothing."""
    pairs = []
    for name, short in _COMPARED.items():
        expected, got = result.expected.get(name), result.value(name)
        if expected is not None:
            pairs.append(f"{short} {number(expected)} → {NONE if got is None else number(got)}")
    return ", ".join(pairs) or NONE


def llm_line(events: tuple[dict[str, Any], ...]) -> str | None:
    """What the LLM was asked and took; None where none was asked."""
    asked = [event for event in events if event.get("event") == "llm"]
    if not asked:
        return None
    tokens = sum(int(event["sent"]) + int(event["received"]) for event in asked)
    prices = [event["usd"] for event in asked if event["counted"]]
    known = all(price is not None for price in prices)
    cost = f"${sum(prices):.4f}" if known else "at a price that is not known"
    usable = sum(event["outcome"] not in {"unusable", "no_answer"} for event in asked)
    return f"LLM: {len(asked)} questions, {usable} usable answers, {tokens} tokens, {cost}"
