"""`paredown analyze`: what an experiment found, finished or not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from paredown.report.findings import Judged
    from paredown.store.experiment import ExperimentRecord, State

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
) -> None:
    """Show what an experiment found: recommendation, front, failures, cost."""
    from paredown.report.findings import find
    from paredown.store.experiment import read_experiment, state_of

    record = read_experiment(folder)
    findings, state = find(record), state_of(record)
    match output_format:
        case Format.SUMMARY:
            _summary(_console(), findings, state)
        case Format.DETAILED:
            _detailed(_console(), findings, state)
        case Format.JSON:
            from paredown.report.documents import stop_reason_of, whole_document
            from paredown.spec.serial import readable

            told = whole_document(findings, state, stop_reason_of(record, state))
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
        console.print(TextTable(columns=SCORE_COLUMNS, rows=scores, title="Benchmarks"))
    _print_verdicts(console, findings)
    console.print()
    _print_cost(console, findings)
    _print_files(console, record)


def _detailed(console: Console, findings: Judged, state: State) -> None:
    from paredown.report.story import story
    from paredown.report.tables import (
        EPISODE_COLUMNS,
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
    console.print(TextTable(columns=EPISODE_COLUMNS, rows=rows, title="All episodes"))
    if failed := failures(record.results):
        console.print()
        columns: Sequence[str] = ("episode", "strategy", "cause")
        console.print(TextTable(columns=columns, rows=failed, title="Failures"))
    for section in story(findings):
        console.print(f"\n{section.title}", style="italic")
        for line in section.lines:
            console.print(f"  {line}", soft_wrap=True)
        if section.rows:
            console.print(TextTable(columns=section.columns, rows=section.rows, title=""))
    for result in record.results:
        for score in result.scores:
            if score.parts:
                title = f"Episode {result.episode}: {score.name}"
                columns = ("subject", "score", "items")
                console.print()
                console.print(TextTable(columns=columns, rows=part_rows(score), title=title))
        if result.measurements:
            title = f"Episode {result.episode}: {result.label}"
            console.print()
            console.print(
                TextTable(columns=MEASUREMENT_COLUMNS, rows=measurement_rows(result), title=title)
            )
        for note in (*result.remarks, *(f"limit missed: {text}" for text in result.unmet)):
            console.print(f"  episode {result.episode}: {note}")


def _print_state(console: Console, findings: Judged, state: State) -> None:
    record = findings.record
    done = len(record.trials)
    console.print(f"{record.name}: {record.config.model} on {record.config.data}", style="bold")
    progress = f"{done} of {record.config.episodes} episodes"
    match state:
        case "finished":
            why = (record.final or {}).get("stop_reason")
            console.print(f"finished ({progress}{f'; {why}' if why else ''})")
        case "running":
            console.print(f"still running: {progress} so far; numbers may change")
        case "interrupted":
            console.print(f"interrupted after {progress}; nothing finished is lost. To go on:")
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
        console.print(f"No recommendation: {chosen.reason}")
        return
    console.print(f"Recommended: {name_of(best)}", style="bold")
    console.print(f"  {chosen.reason}")
    if best.artifact is not None:
        console.print(f"  {findings.record.folder / best.artifact}", soft_wrap=True)
    for note in best.remarks:
        console.print(f"  note: {note}")
    if second is not None:
        console.print(f"Runner-up: {name_of(second)}")
    if chosen.runner_up_reason:
        lead = "  " if second is not None else "Runner-up: none; "
        console.print(f"{lead}{chosen.runner_up_reason}")


def _print_verdicts(console: Console, findings: Judged) -> None:
    from paredown.report.tables import score_notes

    chosen = [r for r in findings.record.results if r in findings.front and r.verdict is not None]
    if chosen:
        console.print("\nVerdicts", style="italic")
    for result in chosen:
        console.print(f"  episode {result.episode}: {result.verdict}")
    for result in findings.record.results:
        for note in score_notes(result):
            console.print(f"  episode {result.episode}: {note}")
        if result.not_scored is not None:
            console.print(f"  episode {result.episode}: {result.not_scored.words}")


def _print_cost(console: Console, findings: Judged) -> None:
    from paredown.report.cost import search_cost
    from paredown.report.story import llm_line
    from paredown.spec.units import human_seconds

    cost = search_cost(findings.record)
    console.print(
        f"episodes: {cost.episodes_ok} finished, {cost.episodes_failed} failed, "
        f"{cost.refused} refused at planning; {human_seconds(cost.wall_s)} in all "
        f"({human_seconds(cost.compress_s)} compressing, "
        f"{human_seconds(cost.evaluate_s)} evaluating)"
    )
    if asked := llm_line(findings.record.events):
        console.print(asked)


def _print_files(console: Console, record: ExperimentRecord) -> None:
    from paredown.report.write import FIGURE_FILE, PAGE_FILE, REPORT_FILE

    for name in (REPORT_FILE, PAGE_FILE, FIGURE_FILE):
        if (record.folder / name).is_file():
            console.print(f"  {record.folder / name}", soft_wrap=True)
