"""`paredown analyze`: what an experiment found, finished or not."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from paredown.cli.options import Lang, language_of
from paredown.language import clauses, headings, say, speaking
from paredown.language.recorded import recorded

if TYPE_CHECKING:
    from rich.console import Console

    from paredown.report.findings import Judged
    from paredown.spec.result import TrialResult
    from paredown.store.experiment import ExperimentRecord
    from paredown.store.state import State

PIPE_WIDTH = 160
"""Columns of a table that is not printed on a terminal."""


class Format(StrEnum):
    """How much to print, and for whom."""

    SUMMARY = "summary"
    DETAILED = "detailed"
    JSON = "json"


def analyze(
    folder: Annotated[
        Path, typer.Argument(help="Experiment folder, finished or running.", show_default=False)
    ],
    output_format: Annotated[
        Format,
        typer.Option("--format", "-f", help="summary, detailed (every number), or json."),
    ] = Format.SUMMARY,
    lang: Lang = None,
) -> None:
    """Show what an experiment found: recommendation, front, failures, cost."""
    from paredown.report.findings import find
    from paredown.store.experiment import read_experiment, state_of

    record = read_experiment(folder)
    state, language = state_of(record), language_of(record, lang)
    match output_format:
        case Format.SUMMARY:
            with speaking(language):
                _summary(_console(), find(record), state)
        case Format.DETAILED:
            with speaking(language):
                _detailed(_console(), find(record), state)
        case Format.JSON:
            from paredown.report.documents import stop_reason_of, whole_document
            from paredown.spec.serial import readable

            told = whole_document(find(record), state, stop_reason_of(record, state))
            typer.echo(readable(told), nl=False)
        case _:
            assert_never(output_format)


def _console() -> Console:
    from paredown.report.console import make_console

    return make_console(width=None if sys.stdout.isatty() else PIPE_WIDTH)


def _summary(console: Console, findings: Judged, state: State) -> None:
    from paredown.report.tables import SCORE_COLUMNS, front_notes, score_rows
    from paredown.report.terminal import TextTable, front_table

    record = findings.record
    _print_state(console, findings, state)
    _print_recommendation(console, findings)
    if findings.front.episodes:
        console.print()
        console.print(front_table(record.results, findings.front, findings.recommendation))
        for note in front_notes(record.results, findings.front):
            console.print(f"  {note}")
    if scores := score_rows(record.results):
        console.print()
        console.print(TextTable(columns=SCORE_COLUMNS, rows=scores, title=say("Benchmarks")))
    _print_verdicts(console, findings)
    console.print()
    _print_cost(console, findings)
    _print_files(console, record)


def _detailed(console: Console, findings: Judged, state: State) -> None:
    from paredown.report.story import story
    from paredown.report.tables import (
        EPISODE_COLUMNS,
        FAILURE_COLUMNS,
        MEASUREMENT_COLUMNS,
        episode_rows,
        failures,
        measurement_rows,
        part_rows,
    )
    from paredown.report.terminal import TextTable

    _summary(console, findings, state)
    record = findings.record
    rows = episode_rows(record.results, findings.front, findings.recommendation)
    console.print()
    console.print(TextTable(columns=EPISODE_COLUMNS, rows=rows, title=say("All episodes")))
    if failed := failures(record.results):
        console.print()
        console.print(TextTable(columns=FAILURE_COLUMNS, rows=failed, title=say("Failures")))
    for section in story(findings):
        console.print(f"\n{section.title}", style="italic")
        for line in section.lines:
            console.print(f"  {line}", soft_wrap=True)
        if section.rows:
            console.print(TextTable(columns=section.columns, rows=section.rows, title=""))
    for result in record.results:
        for score in result.scores:
            if score.parts:
                title = say("Episode {number}: {name}", number=result.episode, name=score.name)
                columns = headings("subject", "score", "items")
                console.print()
                console.print(TextTable(columns=columns, rows=part_rows(score), title=title))
        if result.measurements:
            title = say("Episode {number}: {name}", number=result.episode, name=result.label)
            console.print()
            console.print(
                TextTable(columns=MEASUREMENT_COLUMNS, rows=measurement_rows(result), title=title)
            )
        missed = (say("limit missed: {limit}", limit=limit) for limit in findings.missed(result))
        for note in (*map(recorded, result.remarks), *missed):
            console.print("  " + say("episode {number}: {note}", number=result.episode, note=note))


def _print_state(console: Console, findings: Judged, state: State) -> None:
    record = findings.record
    done = len(record.trials)
    about = {"name": record.name, "model": record.config.model, "data": record.config.data}
    console.print(say("{name}: {model} on {data}", **about), style="bold")
    progress = say("{done} of {all} episodes", done=done, all=record.config.episodes)
    match state:
        case "finished":
            why = (record.final or {}).get("stop_reason")
            told = clauses((progress, recorded(why) if why else ""))
            console.print(say("finished ({progress})", progress=told))
        case "running":
            console.print(
                say("still running: {progress} so far; numbers may change", progress=progress)
            )
        case "interrupted":
            console.print(
                say(
                    "interrupted after {progress}; nothing finished is lost. To go on:",
                    progress=progress,
                )
            )
            from paredown.report.commands import resume_command

            console.print(f"  {resume_command(record)}", soft_wrap=True)
        case _:
            assert_never(state)


def _print_recommendation(console: Console, findings: Judged) -> None:
    from paredown.judge.words import name_of

    chosen = findings.recommendation
    best, second = findings.result(chosen.episode), findings.result(chosen.runner_up)
    console.print()
    if best is None:
        console.print(say("No recommendation: {reason}", reason=chosen.reason))
        return
    console.print(say("Recommended: {name}", name=name_of(best)), style="bold")
    console.print(f"  {chosen.reason}")
    if best.artifact is not None:
        console.print(f"  {findings.record.folder / best.artifact}", soft_wrap=True)
    for note in best.remarks:
        console.print("  " + say("note: {text}", text=recorded(note)))
    if second is not None:
        console.print(say("Runner-up: {name}", name=name_of(second)))
        console.print(f"  {chosen.runner_up_reason}")
    elif chosen.runner_up_reason:
        console.print(say("Runner-up: none; {reason}", reason=chosen.runner_up_reason))


def _print_verdicts(console: Console, findings: Judged) -> None:
    from paredown.report.tables import score_notes

    chosen = [r for r in findings.record.results if r in findings.front and r.verdict is not None]
    if chosen:
        console.print("\n" + say("Verdicts"), style="italic")
    for result in chosen:
        _print_of(console, result, result.verdict or "")
    for result in findings.record.results:
        for note in score_notes(result):
            _print_of(console, result, note)
        if result.not_scored is not None:
            _print_of(console, result, recorded(result.not_scored.words))


def _print_of(console: Console, result: TrialResult, note: str) -> None:
    console.print("  " + say("episode {number}: {note}", number=result.episode, note=note))


def _print_cost(console: Console, findings: Judged) -> None:
    from paredown.report.cost import search_cost
    from paredown.report.story import llm_line
    from paredown.spec.units import human_seconds

    cost = search_cost(findings.record)
    console.print(
        say(
            "episodes: {ok} finished, {failed} failed, {refused} refused at planning; {time} in "
            "all ({compressing} compressing, {evaluating} evaluating)",
            ok=cost.episodes_ok, failed=cost.episodes_failed, refused=cost.refused,
            time=human_seconds(cost.wall_s), compressing=human_seconds(cost.compress_s),
            evaluating=human_seconds(cost.evaluate_s),
        )
    )  # fmt: skip
    if asked := llm_line(findings.record.events):
        console.print(asked)


def _print_files(console: Console, record: ExperimentRecord) -> None:
    from paredown.report.write import FIGURE_FILE, PAGE_FILE, REPORT_FILE

    for name in (REPORT_FILE, PAGE_FILE, FIGURE_FILE):
        if (record.folder / name).is_file():
            console.print(f"  {record.folder / name}", soft_wrap=True)
