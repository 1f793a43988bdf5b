"""Writes the files of an experiment that sum it up: a few after every episode, all at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paredown.language import Language, preferred, speaking
from paredown.report.documents import final_document, front_document, whole_document
from paredown.report.findings import Judged, find
from paredown.report.markdown import BITS_FILE, SCORES_FILE, report_markdown
from paredown.store.atomic import write_bytes, write_json, write_text
from paredown.store.experiment import ExperimentRecord, state_of
from paredown.store.history import HISTORY_FILE, LONG_FILE, write_history
from paredown.store.state import State

FRONT_FILE = "pareto_frontier.json"
FINAL_FILE = "final_results.json"
FIGURE_FILE = "search_space_analysis.png"
PAGE_FILE = "pareto_visualization.html"
REPORT_FILE = "report.md"
DOCUMENT_FILE = "report.json"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found, and the files that say so."""

    findings: Judged
    files: tuple[Path, ...]


def write_progress_files(record: ExperimentRecord) -> Judged:
    """Write the front and the history; cheap enough for after every episode."""
    findings = find(record)
    write_json(record.folder / FRONT_FILE, front_document(findings))
    write_history(record.folder, record.results, set(findings.front.episodes))
    return findings


def write_report(
    record: ExperimentRecord, stop_reason: str, language: Language | None = None
) -> Report:
    """Write every summary file; `final_results.json` comes last and marks the run as ended.

    Raises:
        ConfigError: the disk is full, or the folder cannot be written.
    """
    report = write_summary(record, stop_reason, language, state="finished")
    path = record.folder / FINAL_FILE
    write_json(path, final_document(report.findings, stop_reason))
    return Report(findings=report.findings, files=(*report.files, path))


def write_summary(
    record: ExperimentRecord,
    stop_reason: str | None,
    language: Language | None = None,
    *,
    state: State | None = None,
) -> Report:
    """Write what people read of an experiment, whether it has ended or not.

    Args:
        stop_reason: why it ended; None: it goes on.
        language: of page and report; None: as the experiment asks, else that of the locale. What
            programs read, and the pictures, for which no font may be at hand, are English always.
        state: of the experiment; None: as its folder says.

    Raises:
        ConfigError: the disk is full, or the folder cannot be written.
    """
    from paredown.report.figures import search_space_png
    from paredown.report.html import front_html
    from paredown.report.planned import plan_png, planned
    from paredown.report.score_figure import scores_png

    folder = record.folder
    findings = write_progress_files(record)
    write_bytes(folder / FIGURE_FILE, search_space_png(findings))
    names: tuple[str, ...] = (
        REPORT_FILE,
        PAGE_FILE,
        FIGURE_FILE,
        FRONT_FILE,
        HISTORY_FILE,
        LONG_FILE,
        DOCUMENT_FILE,
    )
    if (plan := planned(findings)) is not None:
        write_bytes(folder / BITS_FILE, plan_png(findings, plan))
        names = (*names, BITS_FILE)
    if any(result.scores for result in record.results):
        write_bytes(folder / SCORES_FILE, scores_png(findings))
        names = (*names, SCORES_FILE)
    document = whole_document(findings, state or state_of(record), stop_reason)
    write_json(folder / DOCUMENT_FILE, document)
    with speaking(language or preferred(record.config.lang)):
        told = find(record)  # again, for the judge's reasons are sentences, too
        write_text(folder / PAGE_FILE, front_html(told, stop_reason))
        write_text(folder / REPORT_FILE, report_markdown(told, stop_reason))
    return Report(findings=findings, files=tuple(folder / name for name in names))
