"""report.md: an experiment for people, the result first."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from paredown.judge.limits import in_limits
from paredown.judge.undecided import undecided
from paredown.judge.words import NONE, name_of, one_line
from paredown.language import clauses, headings, listed, say, say_many
from paredown.language.recorded import recorded
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
    FAILURE_COLUMNS,
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


_LIMIT_COLUMNS = headings("episode", "strategy", "limits")
_NOTE_COLUMNS = headings("episode", "strategy", "note")
_PROTOCOL_COLUMNS = headings("quantity", "source, unit, n", "how")
_MACHINE = headings("system", "physical cores", "logical cores", "memory", "available", "flags")
"""What the machine is described by, to be said by `say`."""
_OBJECTIVES = headings("quality", "size", "latency", "memory", "energy")
"""To be said by `say`."""
_READ_FOLDERS = frozenset({"torch", "transformers"})
"""Runtimes that load an artifact's own folder: nothing has to be delivered first."""


def report_markdown(findings: Judged, stop_reason: str | None) -> str:
    """The whole report; ends with a newline."""
    sections = (
        [f"# {_text(findings.record.name)}", _chart()],
        [_heading("Result"), *_result(findings)],
        [_heading("What was asked"), *_asked(findings, stop_reason)],
        [_heading("Front"), *_front(findings)],
        _bits(findings),
        _open(findings),
        _verdicts(findings),
        _benchmarks(findings),
        _engines(findings),
        _story(findings),
        [_heading("All episodes"), *_episodes(findings)],
        [_heading("How it was measured"), *_protocols(findings)],
        [_heading("Cost of the search"), *_cost(findings)],
        [_heading("Versions"), *_mapping(findings.record.run.get("versions"))],
    )
    return "\n\n".join(part for section in sections for part in section if part) + "\n"


def _chart() -> str:
    page = "[pareto_visualization.html](pareto_visualization.html)"
    alt = say("Compression ratio against loss of quality")
    return f"![{alt}](search_space_analysis.png)\n\n" + say("Interactive: {page}", page=page)


def _result(findings: Judged) -> list[str]:
    chosen = findings.recommendation
    best, second = findings.result(chosen.episode), findings.result(chosen.runner_up)
    if best is None:
        return [say("**No recommendation:** {reason}", reason=_text(chosen.reason))]
    parts = [say("**Take {name}**: {reason}.", name=_named(best), reason=_text(chosen.reason))]
    parts += [f"- {_text(recorded(note))}" for note in best.remarks]
    sees = findings.record.spec.vision is not None
    parts += load_section(best, findings.record.config, sees=sees)
    if second is not None:
        why = _text(chosen.runner_up_reason)
        parts.append(say("Runner-up: {name}: {reason}.", name=_named(second), reason=why))
    elif chosen.runner_up_reason:
        parts.append(say("Runner-up: none; {reason}.", reason=_text(chosen.runner_up_reason)))
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
        return [say("The artifact was not kept; make it again with"), again]
    again = _fenced("bash", compress_command(result, config))
    folder = repr(result.artifact)
    parts = [
        say("To load it (paths are relative to this folder):"),
        _fenced("python", f"import paredown\n\nmodel = paredown.load({folder})"),
    ]
    if loads_with_transformers(result):
        auto = "AutoModelForImageTextToText" if sees else "AutoModelForCausalLM"
        code = (
            f"from transformers import {auto}\n\n"
            f'model = {auto}.from_pretrained({folder}, dtype="auto")'
        )
        parts += [say("or without paredown:"), _fenced("python", code)]
    if config.runtime not in _READ_FOLDERS:
        words = ["paredown", "deploy", result.artifact, "--to", config.runtime, "-o", "PACKAGE"]
        lead = say("To serve it in {runtime}:", runtime=_text(config.runtime))
        parts += [lead, _fenced("bash", shlex.join(words))]
    return [*parts, say("To make it again, byte for byte:"), again]


def loads_with_transformers(result: TrialResult) -> bool:
    """Whether plain transformers was seen to load this artifact."""
    return any(f.runtime == "transformers" and f.known == "checked" for f in result.loads_in)


def _amount(amount: Amount) -> str:
    """How much text was asked for."""
    if amount.wanted == amount.least:
        return str(amount.wanted)
    return say("at most {count}", count=amount.wanted)


def _noted(events: Iterable[dict[str, Any]]) -> list[str]:
    """What was said about the request when it began, each once however often it was resumed."""
    return list(dict.fromkeys(e["text"] for e in events if e["event"] == "note"))


def _asked(findings: Judged, stop_reason: str | None) -> list[str]:
    record = findings.record
    config, spec = record.config, record.spec
    lines = [
        say(
            "- model: {model}, {count} parameters, {architecture}, {size} in {dtype}",
            model=_code(config.model), count=human_count(spec.parameters),
            architecture=_text(spec.architecture), size=human_bytes(spec.weight_bytes),
            dtype=_text(spec.dtype),
        ),
        say(
            "- evaluation text: {data}, {count} tokens in windows of {window}",
            data=_code(config.data), count=_amount(config.evaluate.amount),
            window=config.evaluate.window,
        ),
        say(
            "- calibration: {data}, {count} windows of {length} tokens",
            data=_calibration(config), count=_amount(config.calibration.amount),
            length=config.calibration.length,
        ),
        *(say("- note: {text}", text=_text(recorded(text))) for text in _noted(record.events)),
        say("- limits: {limits}", limits=in_limits(config.limits) or say("none")),
        say("- objectives: {names}", names=listed(map(say, config.objectives))),
        _search(config),
        say(
            "- device: {device}; runtime: {runtime}, in which everything was measured",
            device=config.device, runtime=_text(config.runtime),
        ),
        say("- ended because: {reason}", reason=_text(recorded(stop_reason)))
        if stop_reason
        else "",
    ]  # fmt: skip
    machine = _mapping(record.run.get("hardware"))
    return ["\n".join(filter(None, lines)), *([say("Machine:"), *machine] if machine else [])]


def _calibration(config: RunConfig) -> str:
    if config.calibration.source is not None:
        return _code(config.calibration.source)
    return say("training part of {data}", data=_code(config.data))


def _search(config: RunConfig) -> str:
    told = {
        "policy": config.policy, "episodes": config.episodes, "seed": config.seed,
        "methods": listed(map(_text, config.methods)) if config.methods else say("all that suit"),
    }  # fmt: skip
    if config.budget_h:
        return say(
            "- search: {policy}, {episodes} episodes, at most {hours} h, seed {seed}, methods: "
            "{methods}",
            **told, hours=f"{config.budget_h:g}",
        )  # fmt: skip
    return say("- search: {policy}, {episodes} episodes, seed {seed}, methods: {methods}", **told)


def _front(findings: Judged) -> list[str]:
    record, front = findings.record, findings.front
    if not front.episodes:
        return [say("Nothing finished with every objective measured.")]
    rows = front_rows(record.results, front, findings.recommendation)
    text = say_many(
        "Of {compared} measured results, {n} is on the front: each of the others is matched or "
        "beaten in all of {objectives} by it. The baseline is shown first, on the front or not.",
        "Of {compared} measured results, {n} are on the front: each of the others is matched or "
        "beaten in all of {objectives} by one of these. The baseline is shown first, on the front "
        "or not.",
        len(front.episodes),
        compared=len(front.compared), objectives=listed(map(say, front.objectives)),
    )  # fmt: skip
    notes = [f"- {_text(note)}" for note in front_notes(record.results, front)]
    return [text, _table(FRONT_COLUMNS, rows), _text(say(LEGEND)), "\n".join(notes)]


def _bits(findings: Judged) -> list[str]:
    """What each layer of the recommended model got, where it was made from a plan."""
    found = planned(findings)
    if found is None:
        return []
    section = plan_section(found)
    return [
        f"## {section.title}",
        f"![{say('KL against size, and bits by block and kind of layer')}]({BITS_FILE})",
        "\n\n".join(map(_text, section.lines)),
        _table(section.columns, section.rows, code=None),
    ]


def _open(findings: Judged) -> list[str]:
    """What the items of the benchmarks do not decide; why they were not asked more."""
    still = undecided(findings.findings)
    if not still:
        return []
    told = [e for e in findings.record.events if e["event"] == "open_decisions" and e["reason"]]
    text = say("What the benchmark items asked so far do not decide.")
    if told:
        reason = _text(recorded(told[-1]["reason"]))
        text += say(" No more were asked, for {reason}.", reason=reason)
    return [
        _heading("What stays open"),
        text,
        "\n".join(f"- {_text(each.reason)}" for each in still),
    ]


def _engines(findings: Judged) -> list[str]:
    """The same models in other engines."""
    promised = [f"- {_text(line)}" for line in promises(findings)]
    judged = all_engines(findings)
    refused = [f"- {_text(line)}" for line in refusals(findings)]
    if judged is None:
        if not refused + promised:
            return []
        return [_heading("Other engines"), "\n".join(refused + promised)]
    runtime = findings.record.config.runtime
    parts = [
        _heading("Other engines"),
        say(
            "{runtime} steered the search; its front was measured in the others as well, each "
            "beside the base in the same engine. The front of all compares milliseconds and bytes "
            "across engines.",
            runtime=_text(runtime),
        ),
        _table(COLUMNS, engine_rows(findings, judged)),
        "\n".join(refused),
    ]
    if (chosen := judged.chosen) is not None:
        parts.append(
            say(
                "**Across engines, take episode {number} in {engine}**: {reason}.",
                number=chosen.result.episode, engine=_text(chosen.runtime),
                reason=_text(judged.reason),
            )
        )  # fmt: skip
    if commands := take_commands(findings, judged):
        parts += [say("To make it again, and to deliver it:"), _fenced("bash", "\n".join(commands))]
    return [*parts, "\n".join(promised)]


def _benchmarks(findings: Judged) -> list[str]:
    results = findings.record.results
    rows = score_rows(results)
    if not rows:
        return []
    notes = [
        "- " + say("episode {number}: {note}", number=r.episode, note=_text(note))
        for r in results
        for note in score_notes(r)
    ]
    return [
        _heading("Benchmarks"),
        f"![{say('Score against size')}]({SCORES_FILE})",
        say(
            "Changes are against the base model on the same items, in points, with a 95 % "
            "interval; lost/gained counts answers that turned from right to wrong and from wrong "
            "to right; KL is the divergence from the base of the token after each prompt, nats."
        ),
        _table(SCORE_COLUMNS, rows),
        "\n".join(notes),
    ]


def _verdicts(findings: Judged) -> list[str]:
    lines = [
        "- " + say("{name}: {verdict}", name=_named(result), verdict=_text(result.verdict))
        for result in findings.record.results
        if result.verdict is not None
    ]
    return [_heading("In words"), "\n".join(lines)] if lines else []


def _episodes(findings: Judged) -> list[str]:
    record = findings.record
    rows = episode_rows(record.results, findings.front, findings.recommendation)
    if not rows:
        return [say("None has finished.")]
    parts = [_table(EPISODE_COLUMNS, rows)]
    broken = [
        (str(r.episode), r.label, clauses(findings.missed(r))) for r in record.results if r.unmet
    ]
    notes = [
        (str(r.episode), r.label, clauses(map(recorded, r.remarks)))
        for r in record.results
        if r.remarks
    ]
    for title, columns, entries in (
        (say("Failures"), FAILURE_COLUMNS, failures(record.results)),
        (say("Limits missed"), _LIMIT_COLUMNS, broken),
        (say("Notes"), _NOTE_COLUMNS, notes),
    ):
        if entries:
            parts += [f"### {title}", _table(columns, entries)]
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
            about = say("{source}, {unit}, n = {n}", source=say(m.source), unit=m.unit, n=m.n)
            seen.setdefault((m.name, about, recorded(m.how)))
    if not seen:
        return [say("Nothing was measured.")]
    note = say(
        "Every number is of the artifact reloaded from disk. ± is half of a 95 % interval; n "
        "counts independent samples. `derived` numbers follow exactly from measured ones."
    )
    return [note, _table(_PROTOCOL_COLUMNS, list(seen), code=None)]


def _cost(findings: Judged) -> list[str]:
    cost = search_cost(findings.record)
    time = human_seconds(cost.wall_s)
    lines = [
        say("{time} in all", time=time)
        if cost.overhead is None
        else say(
            "{time} in all (overhead {percent} %)", time=time, percent=f"{100 * cost.overhead:.1f}"
        ),
        say(
            "{compressing} compressing, {evaluating} evaluating",
            compressing=human_seconds(cost.compress_s), evaluating=human_seconds(cost.evaluate_s),
        ),
        say(
            "episodes: {ok} finished, {failed} failed, {refused} refused at planning, before "
            "anything was loaded",
            ok=cost.episodes_ok, failed=cost.episodes_failed, refused=cost.refused,
        ),
        *energy_lines(findings),
        llm_line(findings.record.events) or "",
    ]  # fmt: skip
    return ["\n".join(f"- {_text(line)}" for line in lines if line)]


def _mapping(value: object) -> list[str]:
    """A bullet per entry of a dict; nested ones on one line."""
    if not isinstance(value, dict) or not value:
        return []
    entries = ((say(key), text) for key, text in _entries(value))
    return ["\n".join(f"- {_text(key)}: {_text(text)}" for key, text in entries)]


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
    return say("episode {number}, {strategy}", number=result.episode, strategy=_code(result.label))


def _table(columns: Sequence[str], rows: Sequence[tuple[str, ...]], *, code: int | None = 1) -> str:
    """A table; column number `code` holds strategies and is set as code."""
    columns, rows = filled(columns, rows)
    lines = ["| " + " | ".join(map(say, columns)) + " |", "|" + " --- |" * len(columns)]
    lines += [
        "| "
        + " | ".join(_cell_code(c) if i == code else _text(c) for i, c in enumerate(row))
        + " |"
        for row in rows
    ]
    return "\n".join(lines)


def _heading(title: str) -> str:
    return f"## {say(title)}"


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
