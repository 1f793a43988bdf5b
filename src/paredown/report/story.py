"""The story of a run, for every report: who tried what and why, what came of it, what was learned,
and what was left untried. In plain text; Markdown and HTML only set it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from paredown.judge.quantities import loss, ratio
from paredown.judge.words import NONE, name_of, number, signed_percent, times
from paredown.language import headings, listed, marked, say, say_many
from paredown.language.recorded import recorded
from paredown.report.cost import llm_cost, refusals
from paredown.report.findings import Judged
from paredown.report.tables import Rows
from paredown.spec.result import TrialResult
from paredown.spec.serial import plain
from paredown.spec.units import human_seconds

LESSON_COLUMNS = headings("before episode", "in its words")
STORY_COLUMNS = headings(
    "episode", "strategy", "proposed by", "why", "expected → got", "on the front"
)
WHO_COLUMNS = headings("who", "trials", "failed", "on the front", "time", "which")
METHOD_COLUMNS = headings("method", "trials", "failed", "on the front", "quality loss", "ratio")
REFUSED_COLUMNS = headings("strategies", "for example", "reason")
REFUSED_ROWS = 12
"""Reasons for refusals that are written out."""
_COMPARED = {
    "perplexity": marked("perplexity"), "compression_ratio": marked("ratio"),
    "speedup": marked("speed"),
}  # fmt: skip
_WHO = {
    "user": marked("the user"),
    "start": marked("skills"),
    "knowledge": marked("known from other models"),
    "portfolio": marked("opening (each method once)"),
    "llm": marked("the LLM"),
    "resume": marked("resume"),
}


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the story.

    Attributes:
        title: of the section.
        lines: sentences, before the table.
        columns, rows: a table; no rows, no table.
        code: number of the column that holds strategies or methods; -1: none does.
    """

    title: str
    lines: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[tuple[str, ...]] = ()
    code: int = 1


def story(findings: Judged) -> tuple[Section, ...]:
    """All parts that have something to say."""
    sections = (
        _decisions(findings),
        _who(findings),
        _learned(findings),
        _lessons(findings),
        _untried(findings),
    )
    return tuple(section for section in sections if section.lines or section.rows)


def result_lines(findings: Judged, stop_reason: str | None) -> list[str]:
    """Runner-up and end of the run: what stands below the recommendation."""
    chosen = findings.recommendation
    second = findings.result(chosen.runner_up)
    lines = []
    if second is not None:
        lines.append(
            say(
                "Runner-up: {name}: {reason}.",
                name=name_of(second),
                reason=chosen.runner_up_reason,
            )
        )
    elif chosen.runner_up_reason:
        lines.append(say("Runner-up: none; {reason}.", reason=chosen.runner_up_reason))
    if stop_reason:
        lines.append(say("The run ended because: {reason}.", reason=recorded(stop_reason)))
    return lines


def _decisions(findings: Judged) -> Section:
    return Section(
        title=say("What was tried, and why"),
        lines=_surprises(findings.record.trials),
        columns=STORY_COLUMNS,
        rows=story_rows(findings),
    )


def story_rows(findings: Judged) -> Rows:
    """One row per trial, in order."""
    return [
        (
            str(result.episode),
            result.label,
            result.proposed_by or NONE,
            _reason(result, findings.record.events),
            expected_and_got(result),
            say("yes") if result in findings.front else say("no"),
        )
        for result in findings.record.trials
    ]


def _reason(result: TrialResult, events: Sequence[Mapping[str, Any]]) -> str:
    """Why a trial was made, as first said."""
    decision = _decision(result, events)
    return NONE if decision is None else recorded(str(decision.get("reason", NONE)))


def _decision(result: TrialResult, events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The event of the decision that was carried out.

    A kill may have kept another decision about the same episode from being carried out, and the
    resumed run decided again: its reason must not be lent to what was tried in its place.
    """
    about = [
        event
        for event in events
        if event.get("event") == "decision" and event.get("episode") == result.episode
    ]
    wanted = (result.proposed_by, plain(result.strategy))
    same = [event for event in about if (event.get("policy"), event.get("strategy")) == wanted]
    return next(iter(same or about), None)


def expected_and_got(result: TrialResult) -> str:
    """`perplexity 16 → 15.8, ratio 2.4 → 2.38`; a failed trial got nothing."""
    pairs = []
    for name, short in _COMPARED.items():
        expected, got = result.expected.get(name), result.value(name)
        if expected is not None:
            shown = NONE if got is None else number(got)
            pairs.append(f"{say(short)} {number(expected)} → {shown}")
    return listed(pairs) or NONE


def _surprises(trials: Sequence[TrialResult]) -> list[str]:
    """How far expectations were off, by quantity."""
    parts = []
    for name, short in (*_COMPARED.items(), ("seconds", marked("time"))):
        pairs = [(r.expected.get(name), _got(r, name)) for r in trials if r.status == "ok"]
        off = [abs(got / expected - 1) for expected, got in pairs if expected and got]
        if off:
            what = say(short)
            share = f"{median(off):.1%}"
            parts.append(say("{what} by {share} (n = {n})", what=what, share=share, n=len(off)))
    if not parts:
        return []
    return [say("Expectations were off, in the median: {parts}.", parts=listed(parts))]


def _got(result: TrialResult, name: str) -> float | None:
    return result.booked_s if name == "seconds" else result.value(name)


def who(proposed_by: str | None) -> str:
    """Who proposed a trial, for people; `portfolio:llm` is the LLM."""
    name = (proposed_by or "").rpartition(":")[2]
    if name in _WHO:
        return say(_WHO[name])
    return say("{name} search", name=name) if name else say("unknown")


def _who(findings: Judged) -> Section:
    groups: dict[str, list[TrialResult]] = {}
    for result in findings.record.trials:
        groups.setdefault(who(result.proposed_by), []).append(result)
    rows = [
        (
            name,
            str(len(mine)),
            str(sum(r.status == "failed" for r in mine)),
            str(sum(r in findings.front for r in mine)),
            human_seconds(sum(r.wall_s for r in mine)),
            listed(say("episode {number}", number=r.episode) for r in mine if r in findings.front)
            or NONE,
        )
        for name, mine in groups.items()
    ]
    chosen = findings.result(findings.recommendation.episode)
    lines = []
    if chosen is not None and chosen.episode > 0:
        found_by = who(chosen.proposed_by)
        lines.append(say("The recommended one was found by: {who}.", who=found_by))
    asked = llm_line(findings.record.events)
    if asked is not None:
        lines.append(say("{sentence}.", sentence=asked))
    return Section(
        title=say("Who found what"), lines=lines, columns=WHO_COLUMNS, rows=rows, code=-1
    )


def llm_line(events: Sequence[dict[str, Any]]) -> str | None:
    """What the LLM was asked and took; None where none was asked."""
    cost = llm_cost(events)
    if cost is None:
        return None
    told = {
        "questions": cost.questions, "usable": cost.usable, "tokens": cost.sent + cost.received,
        "sent": cost.sent, "received": cost.received,
    }  # fmt: skip
    if cost.usd is None:
        return say(
            "LLM: {questions} questions, {usable} usable answers, {tokens} tokens ({sent} sent, "
            "{received} received), at a price that is not known",
            **told,
        )
    return say(
        "LLM: {questions} questions, {usable} usable answers, {tokens} tokens ({sent} sent, "
        "{received} received), ${usd}",
        **told, usd=f"{cost.usd:.4f}",
    )  # fmt: skip


def _learned(findings: Judged) -> Section:
    """What each method gave in this run, and what that said of earlier ones."""
    groups: dict[str, list[TrialResult]] = {}
    for result in findings.record.trials:
        if result.strategy is not None:
            for name in dict.fromkeys(step.method for step in result.strategy.steps):
                groups.setdefault(name, []).append(result)
    baseline = findings.baseline
    rows = [
        (
            name,
            str(len(mine)),
            str(sum(r.status == "failed" for r in mine)),
            str(sum(r in findings.front for r in mine)),
            _range((loss(r, baseline) for r in mine if r.status == "ok"), signed_percent),
            _range((ratio(r, baseline) for r in mine if r.status == "ok"), times),
        )
        for name, mine in groups.items()
    ]
    lines = [*_skill_lines(findings)]
    if rows:
        lines.append(say("A pipeline counts for each of its methods; ranges are over its trials."))
    return Section(
        title=say("What was learned"), lines=lines, columns=METHOD_COLUMNS, rows=rows, code=0
    )  # fmt: skip


def _lessons(findings: Judged) -> Section:
    """What an LLM in the lead said that it had learned; its words, which nobody has checked."""
    told = [(r.episode, _decision(r, findings.record.events)) for r in findings.record.trials]
    rows = [
        (str(episode), f"“{decision['learned']}”")
        for episode, decision in told
        if decision is not None and decision.get("learned")
    ]
    note = say(
        "The LLM led. These are its words, said before an episode about those before it; the "
        "numbers of this report are not from them."
    )
    lines = [note] if rows else []
    return Section(
        title=say("What the LLM says it learned"), lines=lines, columns=LESSON_COLUMNS, rows=rows,
        code=-1,
    )  # fmt: skip


def _range(values: Iterable[float | None], show: Any) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return NONE
    low, high = show(min(known)), show(max(known))
    return str(low) if low == high else say("{low} to {high}", low=low, high=high)


def _skill_lines(findings: Judged) -> list[str]:
    """What became of the skills that the run started from, and what it leaves."""
    lines = []
    started = _last(findings, "skills")
    if started is not None and started.get("known"):
        mine = [r for r in findings.record.trials if who(r.proposed_by) == say(_WHO["start"])]
        held = [r.label for r in mine if findings.findings.holds(r)]
        missed = [r.label for r in mine if r.label not in held]
        lines.append(
            say(
                "Skills: {known} known for such models; tried first: {tried}; confirmed: {held}; "
                "did not hold up: {missed}.",
                known=started["known"],
                tried=len(mine),
                held=listed(held) or say("none"),
                missed=listed(missed) or say("none"),
            )
        )
    kept = _last(findings, "remembered")
    if kept is not None:
        demoted = listed(kept.get("demoted", ())) or say("none")
        lines.append(
            say(
                "Kept for later runs: what {count} strategies gave; skills demoted by that: "
                "{demoted}.",
                count=kept.get("new", 0),
                demoted=demoted,
            )
        )
    return lines


def _last(findings: Judged, name: str) -> dict[str, Any] | None:
    events = (e for e in reversed(findings.record.events) if e.get("event") == name)
    return next(events, None)


def _untried(findings: Judged) -> Section:
    """What is left of the space, what was never looked at, and what was refused, by reason."""
    record = findings.record
    tried = [r.strategy for r in record.trials if r.strategy is not None]
    used = {step.method for strategy in tried for step in strategy.steps}
    lines = []
    started = _last(findings, "started")
    if started is not None and "strategies" in started:
        outside = {
            e["label"] for e in _user(findings, "try") if not e.get("in_space", True)
        }  # asked for by the user, and not in the space
        inside = sum(result.label not in outside for result in record.trials)
        whole = int(started["strategies"])
        lines.append(
            say(
                "{left} of the {all} strategies of the search space.",
                left=whole - inside, all=whole,
            )
        )  # fmt: skip
        never = [name for name in started.get("methods", ()) if name not in used]
        if never:
            lines.append(
                say("Methods of the space that were never tried: {names}.", names=listed(never))
            )
    excluded: dict[str, None] = {}
    for event in _user(findings, "exclude", "include"):
        if event["command"] == "exclude":
            excluded[event["method"]] = None
        else:
            excluded.pop(event["method"], None)
    if excluded:
        lines.append(say("Excluded by the user: {names}.", names=listed(excluded)))
    rows = _refused_rows(refusals(record))
    if rows:
        lines.append(
            say(
                "Refused at planning, before anything was loaded: {count} strategies or methods "
                "(each one is in events.jsonl):",
                count=len(refusals(record)),
            )
        )
    return Section(title=say("What was not tried"), lines=lines, columns=REFUSED_COLUMNS, rows=rows)


def _user(findings: Judged, *commands: str) -> list[dict[str, Any]]:
    return [
        event
        for event in findings.record.events
        if event.get("event") == "user" and event.get("command") in commands
    ]


def _refused_rows(refused: Sequence[tuple[str, str]]) -> Rows:
    """One row per reason, the most frequent first."""
    count = Counter(reason for _, reason in refused)
    first: dict[str, str] = {}
    for label, reason in refused:
        first.setdefault(reason, label)
    rows: Rows = [
        (str(n), first[reason], recorded(reason)) for reason, n in count.most_common(REFUSED_ROWS)
    ]
    rest = len(refused) - sum(int(row[0]) for row in rows)
    if rest:
        more = say_many("{n} more reason", "{n} more reasons", len(count) - REFUSED_ROWS)
        rows.append((str(rest), NONE, more))
    return rows
