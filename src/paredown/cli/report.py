"""`paredown report`: the report of an experiment, whether it has ended or not."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from paredown.cli.options import Lang, language_of
from paredown.errors import ConfigError

if TYPE_CHECKING:
    from paredown.language import Language
    from paredown.store.experiment import ExperimentRecord


class Format(StrEnum):
    """As what it is printed."""

    MARKDOWN = "md"
    HTML = "html"
    CSV = "csv"
    JSON = "json"
    LATEX = "latex"


class Paint(StrEnum):
    """What colours tell apart."""

    METHOD = "method"
    KIND = "kind"


def report(
    folder: Annotated[
        Path, typer.Argument(help="Experiment folder, finished or running.", show_default=False)
    ],
    output_format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-f",
            help="Print it as md, html, csv, json or latex (a table), and write nothing. "
            "[default: write the files into the folder]",
            show_default=False,
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw ratio against loss into this file alone: .png, .svg or .pdf.",
            show_default=False,
        ),
    ] = None,
    paint: Annotated[
        Paint,
        typer.Option(
            help="What the figure's colours tell apart: each method, or the kind alone (single "
            "methods blue, combinations red)."
        ),
    ] = Paint.METHOD,
    lang: Lang = None,
) -> None:
    """Write the report of an experiment as it stands, or print it.

    Works on experiments that are finished, interrupted or running. Files are replaced one by one,
    so that a reader never sees half of one.
    """
    from paredown.store.experiment import read_experiment

    record = read_experiment(folder)
    language = language_of(record, lang)
    if figure is not None:
        typer.echo(_draw(record, figure, paint))
    elif output_format is None:
        from paredown.report.write import write_summary

        for path in write_summary(record, _stop_reason(record), language).files:
            typer.echo(path)
    else:
        typer.echo(_text(record, output_format, language), nl=False)


def _draw(record: ExperimentRecord, path: Path, paint: Paint) -> Path:
    from paredown.report.figures import FORMS, drawn, search_space_figure
    from paredown.report.findings import find
    from paredown.store.atomic import write_bytes

    form = path.suffix.lower().removeprefix(".")
    if form not in FORMS:
        raise ConfigError(f"--figure {path}: name a file that ends in .{', .'.join(FORMS)}")
    write_bytes(path, drawn(search_space_figure(find(record), paint.value), form))
    return path


def _text(record: ExperimentRecord, output_format: Format, language: Language) -> str:
    from paredown.language import speaking
    from paredown.report.findings import find

    findings = find(record)
    match output_format:
        case Format.MARKDOWN:
            from paredown.report.markdown import report_markdown

            with speaking(language):
                return report_markdown(find(record), _stop_reason(record))
        case Format.HTML:
            from paredown.report.html import front_html

            with speaking(language):
                return front_html(find(record), _stop_reason(record))
        case Format.CSV:
            from paredown.store.history import history

            return history(record.results, set(findings.front.episodes))
        case Format.JSON:
            from paredown.report.documents import stop_reason_of, whole_document
            from paredown.spec.serial import readable
            from paredown.store.experiment import state_of

            state = state_of(record)
            return readable(whole_document(findings, state, stop_reason_of(record, state)))
        case Format.LATEX:
            from paredown.report.latex import front_latex

            return front_latex(findings)
        case _:
            assert_never(output_format)


def _stop_reason(record: ExperimentRecord) -> str | None:
    """Why it ended, so far as it has; a run that was resumed has ended only once it says so."""
    from paredown.report.documents import stop_reason_of
    from paredown.store.experiment import state_of

    match state_of(record):
        case "finished":
            return stop_reason_of(record, "finished")
        case "running":
            return None
        case "interrupted":
            from paredown.language import say
            from paredown.report.commands import resume_command

            return say("it was interrupted; to go on: {command}", command=resume_command(record))
