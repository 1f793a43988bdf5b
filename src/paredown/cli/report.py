"""`paredown report`: the report of an experiment, whether it has ended or not."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

if TYPE_CHECKING:
    from paredown.store.experiment import ExperimentRecord


class Format(StrEnum):
    """As what it is printed."""

    MARKDOWN = "md"
    HTML = "html"
    CSV = "csv"
    JSON = "json"


def report(
    folder: Annotated[
        Path, typer.Argument(help="Experiment folder, finished or running.", show_default=False)
    ],
    output_format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-f",
            help="Print it as md, html, csv or json, and write nothing. "
            "[default: write the files into the folder]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the report of an experiment as it stands, or print it.

    Works on experiments that are finished, interrupted or running. Files are replaced one by one,
    so that a reader never sees half of one.
    """
    from paredown.store.experiment import read_experiment

    record = read_experiment(folder)
    if output_format is None:
        from paredown.report.write import write_summary

        for path in write_summary(record, _stop_reason(record)).files:
            typer.echo(path)
    else:
        typer.echo(_text(record, output_format), nl=False)


def _text(record: ExperimentRecord, output_format: Format) -> str:
    from paredown.report.findings import find

    findings = find(record)
    match output_format:
        case Format.MARKDOWN:
            from paredown.report.markdown import report_markdown

            return report_markdown(findings, _stop_reason(record))
        case Format.HTML:
            from paredown.report.html import front_html

            return front_html(findings, _stop_reason(record))
        case Format.CSV:
            from paredown.store.experiment import history

            return history(record.results, set(findings.front.episodes))
        case Format.JSON:
            from paredown.cli.analyze import document, state_of
            from paredown.spec.serial import readable

            return readable(document(findings, state_of(record)))
        case _:
            assert_never(output_format)


def _stop_reason(record: ExperimentRecord) -> str | None:
    """Why it ended, so far as it has; a run that was resumed has ended only once it says so."""
    from paredown.cli.analyze import state_of

    match state_of(record):
        case "finished":
            reason = (record.final or {}).get("stop_reason")
            return reason if isinstance(reason, str) else None
        case "running":
            return None
        case "interrupted":
            from paredown.report.commands import resume_command

            return f"it was interrupted; to go on: {resume_command(record)}"
