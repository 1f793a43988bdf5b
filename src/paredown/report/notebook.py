"""What a notebook shows of an experiment: a table and a picture."""

from __future__ import annotations

from base64 import b64encode
from html import escape

from paredown.judge.words import name_of, one_line
from paredown.language import say
from paredown.report.figures import drawn, search_space_figure
from paredown.report.findings import Judged
from paredown.report.markup import html_table
from paredown.report.tables import FRONT_COLUMNS, LEGEND, front_rows

_DPI = 60


def in_short(findings: Judged) -> str:
    """An experiment on one line: what is recommended, of how many."""
    record = findings.record
    chosen = findings.result(findings.recommendation.episode)
    done = sum(r.status == "ok" for r in record.trials)
    told = "no recommendation" if chosen is None else f"recommended: {name_of(chosen)}"
    return f"Front({one_line(record.name, 60)}: {done} of {len(record.trials)} trials ok; {told})"


def front_card(findings: Judged) -> str:
    """The recommendation, the front as a table, and the search space as a picture; HTML."""
    record = findings.record
    chosen = findings.result(findings.recommendation.episode)
    lead = say("No recommendation")
    if chosen is not None:
        lead = say("Recommended: {name}", name=name_of(chosen))
    rows = front_rows(record.results, findings.front, findings.recommendation)
    alt = escape(say("Compression ratio against loss of quality"))
    picture = b64encode(drawn(search_space_figure(findings), dpi=_DPI)).decode()
    return (
        f"<p><strong>{escape(one_line(lead, 400))}</strong>: "
        f"{escape(one_line(findings.recommendation.reason, 600))}</p>\n"
        f"{html_table(FRONT_COLUMNS, rows)}\n<p>{escape(say(LEGEND))}</p>\n"
        f'<img alt="{alt}" src="data:image/png;base64,{picture}">'
    )
