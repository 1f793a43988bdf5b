"""report.md: an experiment for people, the result first."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from paredown.judge.limits import in_limits
from paredown.judge.undecided import undecided
from paredown.judge.words import NONE, name_of, one_line
from paredown.report.commands import compress_command
from paredown.report.cost import search_cost
from paredown.report.energy import energy_lines
from paredown.report.engines import (
    COLUMNS,
    all_engines,
    engine_rows,
    promises,
    refusals,
    take_commands,
)
from paredown.report.findings import Judged
from paredown.report.planned import plan_section, planned
from paredown.report.story import llm_line, story
from paredown.report.tables import (
    EPISODE_COLUMNS,
    FRONT_COLUMNS,
    LEGEND,
    SCORE_COLUMNS,
    episode_rows,
    failures,
    filled,
    front_notes,
    front_rows,
    score_notes,
    score_rows,
)
from paredown.spec.result import TrialResult
from paredown.spec.run import Amount, RunConfig
from paredown.spec.units import human_bytes, human_count, human_seconds

SCORES_FILE = "benchmark_scores.png"
BITS_FILE = "bits_by_layer.png"
_SPECIAL = re.compile(r"([\\`*_\[\]|~$])")


_READ_FOLDERS = frozenset({"torch", "transformers"})
"""Runtimes that load an artifact's own folder: nothing has to be delivered first."""


def report_markdown(findings: Judged, stop_reason: str | None) -> str:
    """The whole report; ends with a newline."""
    sections = (
        [f"# {_text(findings.record.name)}", _chart()],
        ["## Result", *_result(findings)],
        ["## What was asked", *_asked(findings, stop_reason)],
        ["## Front", *_front(findings)],
        _bits(findings),
        _open(findings),
        _verdicts(findings),
        _benchmarks(findings),
        _engines(findings),
        _story(findings),
        ["## All episodes", *_episodes(findings)],
        ["## How it was measured", *_protocols(findings)],
        ["## Cost of the search", *_cost(findings)],
        ["## Versions", *_mapping(findings.record.run.get("versions"))],
    )
    return "\n\n".join(part for section in sections for part in section if part) + "\n"


def _chart() -> str:
    return (
        "![Compression ratio against loss of quality](search_space_analysis.png)\n\n"
        "Interactive: [pareto_visualization.html](pareto_visualization.html)"
    )


def _result(findings: Judged) -> list[str]:
    chosen = findings.recommendation
    best, second = findings.result(chosen.episode), findings.result(chosen.runner_up)
    if best is None:
        return [f"**No recommendation:** {_text(chosen.reason)}"]
    parts = [f"**Take {_named(best)}**: {_text(chosen.reason)}."]
    parts += [f"- {_text(note)}" for note in best.remarks]
    sees = findings.record.spec.vision is not None
    parts += load_section(best, findings.record.config, sees=sees)
    if second is not None:
        parts.append(f"Runner-up: {_named(second)}: {_text(chosen.runner_up_reason)}.")
    elif chosen.runner_up_reason:
        parts.append(f"Runner-up: none; {_text(chosen.runner_up_reason)}.")
    return parts


def load_section(result: TrialResult, config: RunConfig, *, sees: bool) -> list[str]:
    """How to load a result's artifact, or how to make it again where it was not kept.

    Args:
        sees: the model takes images, so that transformers has another class for it.
    """
    if result.episode == 0:
        return []
    if result.artifact is None:
        again = _fenced("bash", compress_command(result, config))
        return ["The artifact was not kept; make it again with", again]
    again = _fenced("bash", compress_command(result, config))
    folder = repr(result.artifact)
    parts = [
        "To load it (paths are relative to this folder):",
        _fenced("python", f"import paredown\n\nmodel = paredown.load({folder})"),
    ]
    if loads_with_transformers(result):
        auto = "AutoModelForImageTextToText" if sees else "AutoModelForCausalLM"
        code = (
            f"from transformers import {auto}\n\n"
            f'model = {auto}.from_pretrained({folder}, dtype="auto")'
        )
        parts += ["or without paredown:", _fenced("python", code)]
    if config.runtime not in _READ_FOLDERS:
        words = ["paredown", "deploy", result.artifact, "--to", config.runtime, "-o", "PACKAGE"]
        parts += [f"To serve it in {_text(config.runtime)}:", _fenced("bash", shlex.join(words))]
    return [*parts, "To make it again, byte for byte:", again]


def loads_with_transformers(result: TrialResult) -> bool:
    """Whether plain transformers was seen to load this artifact."""
    return any(f.runtime == "transformers" and f.known == "checked" for f in result.loads_in)


def _amount(amount: Amount) -> str:
    """How much text was asked for."""
    return str(amount.wanted) if amount.wanted == amount.least else f"at most {amount.wanted}"


def _noted(events: Iterable[dict[str, Any]]) -> list[str]:
    """What was said about the request when it began, each once however often it was resumed."""
    return list(dict.fromkeys(e["text"] for e in events if e["event"] == "note"))


def _asked(findings: Judged, stop_reason: str | None) -> list[str]:
    record = findings.record
    config, spec = record.config, record.spec
    lines = [
        f"- model: {_code(config.model)}, {human_count(spec.parameters)} parameters, "
        f"{_text(spec.architecture)}, {human_bytes(spec.weight_bytes)} in {_text(spec.dtype)}",
        f"- evaluation text: {_code(config.data)}, "
        f"{_amount(config.evaluate.amount)} tokens in windows of "
        f"{config.evaluate.window}",
        f"- calibration: {_code(config.calibration.source or f'training part of {config.data}')}, "
        f"{_amount(config.calibration.amount)} windows of {config.calibration.length} tokens",
        *(f"- note: {_text(text)}" for text in _noted(record.events)),
        f"- limits: {in_limits(config.limits) or 'none'}",
        f"- objectives: {', '.join(config.objectives)}",
        f"- search: {config.policy}, {config.episodes} episodes"
        + (f", at most {config.budget_h:g} h" if config.budget_h else "")
        + f", seed {config.seed}, methods: "
        + (", ".join(map(_text, config.methods)) if config.methods else "all that suit"),
        f"- device: {config.device}; runtime: {_text(config.runtime)}, in which everything was "
        "measured",
        f"- ended because: {_text(stop_reason)}" if stop_reason else "",
    ]
    machine = _mapping(record.run.get("hardware"))
    return ["\n".join(filter(None, lines)), *(["Machine:", *machine] if machine else [])]


def _front(findings: Judged) -> list[str]:
    record, front = findings.record, findings.front
    if not front.episodes:
        return ["Nothing finished with every objective measured."]
    rows = front_rows(record.results, front, findings.recommendation)
    text = (
        f"Of {len(front.compared)} measured results, {len(front.episodes)} are on the front: "
        f"each of the others is matched or beaten in all of {', '.join(front.objectives)} by one "
        "of these. "
        "The baseline is shown first, on the front or not."
    )
    notes = [f"- {_text(note)}" for note in front_notes(record.results, front)]
    return [text, _table(FRONT_COLUMNS, rows), _text(LEGEND), "\n".join(notes)]


def _bits(findings: Judged) -> list[str]:
    """What each layer of the recommended model got, where it was made from a plan."""
    found = planned(findings)
    if found is None:
        return []
    section = plan_section(found)
    return [
        f"## {section.title}",
        f"![KL against size, and bits by block and kind of layer]({BITS_FILE})",
        "\n\n".join(map(_text, section.lines)),
        _table(section.columns, section.rows, code=None),
    ]


def _open(findings: Judged) -> list[str]:
    """What the items of the benchmarks do not decide; why they were not asked more."""
    still = undecided(findings.findings)
    if not still:
        return []
    told = [e for e in findings.record.events if e["event"] == "open_decisions" and e["reason"]]
    reason = f" No more were asked, for {_text(told[-1]['reason'])}." if told else ""
    return [
        "## What stays open",
        f"What the benchmark items asked so far do not decide.{reason}",
        "\n".join(f"- {_text(each.reason)}" for each in still),
    ]


def _engines(findings: Judged) -> list[str]:
    """The same models in other engines."""
    promised = [f"- {_text(line)}" for line in promises(findings)]
    judged = all_engines(findings)
    refused = [f"- {_text(line)}" for line in refusals(findings)]
    if judged is None:
        return ["## Other engines", "\n".join(refused + promised)] if refused + promised else []
    runtime = findings.record.config.runtime
    parts = [
        "## Other engines",
        f"{_text(runtime)} steered the search; its front was measured in the others as well, each "
        "beside the base in the same engine. The front of all compares milliseconds and bytes "
        "across engines.",
        _table(COLUMNS, engine_rows(findings, judged)),
        "\n".join(refused),
    ]
    if (chosen := judged.chosen) is not None:
        named = f"episode {chosen.result.episode} in {chosen.runtime}"
        parts.append(f"**Across engines, take {_text(named)}**: {_text(judged.reason)}.")
    if commands := take_commands(findings, judged):
        parts += ["To make it again, and to deliver it:", _fenced("bash", "\n".join(commands))]
    return [*parts, "\n".join(promised)]


def _benchmarks(findings: Judged) -> list[str]:
    results = findings.record.results
    rows = score_rows(results)
    if not rows:
        return []
    notes = [f"- episode {r.episode}: {_text(note)}" for r in results for note in score_notes(r)]
    return [
        "## Benchmarks",
        f"![Score against size]({SCORES_FILE})",
        "Changes are against the base model on the same items, in points, with a 95 % interval; "
        "lost/gained counts answers that turned from right to wrong and from wrong to right; KL is "
        "the divergence from the base of the token after each prompt, nats.",
        _table(SCORE_COLUMNS, rows),
        "\n".join(notes),
    ]


def _verdicts(findings: Judged) -> list[str]:
    lines = [
        f"- {_named(result)}: {_text(result.verdict)}"
        for result in findings.record.results
        if result.verdict is not None
    ]
    return ["## In words", "\n".join(lines)] if lines else []


def _episodes(findings: Judged) -> list[str]:
    record = findings.record
    rows = episode_rows(record.results, findings.front, findings.recommendation)
    if not rows:
        return ["None has finished."]
    parts = [_table(EPISODE_COLUMNS, rows)]
    broken = [(str(r.episode), r.label, "; ".join(r.unmet)) for r in record.results if r.unmet]
    notes = [(str(r.episode), r.label, "; ".join(r.remarks)) for r in record.results if r.remarks]
    for title, column, entries in (
        ("Failures", "cause", failures(record.results)),
        ("Limits missed", "limits", broken),
        ("Notes", "note", notes),
    ):
        if entries:
            parts += [f"### {title}", _table(("episode", "strategy", column), entries)]
    return parts


def _story(findings: Judged) -> list[str]:
    parts = []
    for section in story(findings):
        parts += [f"## {section.title}", "\n\n".join(map(_text, section.lines))]
        if section.rows:
            parts.append(_table(section.columns, section.rows, code=section.code))
    return parts


def _protocols(findings: Judged) -> list[str]:
    seen: dict[tuple[str, str, str], None] = {}
    for result in findings.record.results:
        for m in result.measurements:
            seen.setdefault((m.name, f"{m.source}, {m.unit}, n = {m.n}", m.how))
    if not seen:
        return ["Nothing was measured."]
    note = (
        "Every number is of the artifact reloaded from disk. ± is half of a 95 % interval; "
        "n counts independent samples. `derived` numbers follow exactly from measured ones."
    )
    return [note, _table(("quantity", "source, unit, n", "how"), list(seen), code=None)]


def _cost(findings: Judged) -> list[str]:
    cost = search_cost(findings.record)
    share = "" if cost.overhead is None else f" (overhead {100 * cost.overhead:.1f} %)"
    lines = [
        f"- {human_seconds(cost.wall_s)} in all{share}",
        f"- {human_seconds(cost.compress_s)} compressing, "
        f"{human_seconds(cost.evaluate_s)} evaluating",
        f"- episodes: {cost.episodes_ok} finished, {cost.episodes_failed} failed, "
        f"{cost.refused} refused at planning, before anything was loaded",
    ]
    lines += [f"- {_text(line)}" for line in energy_lines(findings)]
    asked = llm_line(findings.record.events)
    return ["\n".join([*lines, *([f"- {_text(asked)}"] if asked else [])])]


def _mapping(value: object) -> list[str]:
    """A bullet per entry of a dict; nested ones on one line."""
    if not isinstance(value, dict) or not value:
        return []
    return ["\n".join(f"- {_text(key)}: {_text(text)}" for key, text in _entries(value))]


def _entries(mapping: dict[str, object]) -> list[tuple[str, str]]:
    return [
        (key.removesuffix("_bytes").replace("_", " "), human_bytes(value))
        if key.endswith("_bytes") and isinstance(value, int | float)
        else (key.replace("_", " "), _flat(value))
        for key, value in mapping.items()
    ]


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {text}" for key, text in _entries(value)) or NONE
    if isinstance(value, list | tuple):
        return "; ".join(_flat(v) for v in value) or NONE
    return NONE if value is None else str(value)


def _named(result: TrialResult) -> str:
    if result.episode == 0:
        return name_of(result)
    return f"episode {result.episode}, {_code(result.label)}"


def _table(columns: Sequence[str], rows: Sequence[tuple[str, ...]], *, code: int | None = 1) -> str:
    """A table; column number `code` holds strategies and is set as code."""
    columns, rows = filled(columns, rows)
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += [
        "| "
        + " | ".join(_cell_code(c) if i == code else _text(c) for i, c in enumerate(row))
        + " |"
        for row in rows
    ]
    return "\n".join(lines)


def _text(text: str) -> str:
    """Someone else's words, so that nothing in them is read as Markdown or HTML."""
    flat = one_line(text, 600)
    return _SPECIAL.sub(r"\\\1", flat.replace("&", "&amp;").replace("<", "&lt;"))


def _code(text: str) -> str:
    """Inline code; a backtick inside would end it."""
    return "`" + one_line(text, 400).replace("`", "'") + "`"


def _cell_code(text: str) -> str:
    return _code(text).replace("|", "\\|")


def _fenced(language: str, code: str) -> str:
    return f"```{language}\n{code}\n```"
