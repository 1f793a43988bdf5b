"""What the page says of single episodes: every number, what flipped, and the end of the log."""

from __future__ import annotations

from html import escape
from pathlib import Path

from paredown.judge.words import name_of, one_line
from paredown.language import say
from paredown.report.findings import Judged
from paredown.report.markup import html_table
from paredown.report.tables import (
    MEASUREMENT_COLUMNS,
    SCORE_COLUMNS,
    measurement_rows,
    score_notes,
    score_rows,
)
from paredown.spec.result import TrialResult

SHOWN = 60
"""Episodes that are told of in full: those of the front first, then the latest. A page of all of
ten thousand would open in no browser; their folders hold the rest."""
_LOG_LINES, _LOG_BYTES = 12, 8192


def episode_parts(findings: Judged) -> dict[int, str]:
    """HTML by number of the episode, in their order."""
    results = findings.record.results
    chosen = findings.recommendation
    first = {*findings.front.episodes, chosen.episode, chosen.runner_up, 0}
    order = sorted(results, key=lambda r: (r.episode not in first, -r.episode))
    shown = sorted(order[:SHOWN], key=lambda r: r.episode)
    return {result.episode: _part(result, findings) for result in shown}


def _part(result: TrialResult, findings: Judged) -> str:
    verdict = result.failure.message if result.failure is not None else result.verdict
    lines = [one_line(text, 400) for text in (*result.unmet, *score_notes(result))]
    if result.artifact is not None:
        lines.append(result.artifact)
    told = [f"<p>{escape(line)}</p>" for line in lines]
    if result.measurements:
        # Without `how`: the same sentences for every episode, and in results.json.
        rows = [row[:-1] for row in measurement_rows(result)]
        told.append(f'<div class="wide">{html_table(MEASUREMENT_COLUMNS[:-1], rows)}</div>')
    if scores := score_rows([result]):
        told.append(f'<div class="wide">{html_table(SCORE_COLUMNS, scores)}</div>')
    if result.failure is not None and (log := _log(findings.record.folder, result.episode)):
        told.append(f"<p>{escape(say('the end of its log:'))}</p><pre>{escape(log)}</pre>")
    head = escape(one_line(name_of(result), 300))
    said = f": {escape(one_line(verdict, 300))}" if verdict else ""
    return (
        f'<details id="episode-{result.episode}"><summary>{head}{said}</summary>\n'
        + "\n".join(told)
        + "\n</details>"
    )


def _log(folder: Path, episode: int) -> str:
    """The last lines that the workers of an episode printed."""
    path = folder / f"episode_{episode:03d}" / "worker.log"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:  # none was written, or it was taken away
        return ""
    return "\n".join(one_line(line, 200) for line in text.splitlines()[-_LOG_LINES:])
