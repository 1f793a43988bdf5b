"""pareto_visualization.html: the answer, one chart, and what stands behind it, in one page.

It asks the network for nothing and needs no library: the chart is SVG, written here; what moves is
`page.js`. Without a script everything is there, one below the other, as on paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from paredown.judge.quantities import QUANTITIES
from paredown.judge.words import name_of, one_line
from paredown.language import current, marked, say
from paredown.report.chart import chart_svg, objectives_shown
from paredown.report.energy import energy_lines
from paredown.report.episodes import episode_parts
from paredown.report.findings import Judged
from paredown.report.markup import html_table
from paredown.report.planned import plan_section, planned
from paredown.report.plans import heat_map
from paredown.report.story import Section, result_lines, story
from paredown.report.style import BASELINE, FONTS, colours, is_pipeline, method_of
from paredown.report.tables import (
    EPISODE_COLUMNS,
    FAILURE_COLUMNS,
    FRONT_COLUMNS,
    LEGEND,
    SCORE_COLUMNS,
    episode_rows,
    failures,
    front_notes,
    front_rows,
    score_rows,
)

_PAGE = """<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font-family: {fonts}; }}
{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="verdict"><strong>{summary}</strong></p>
{more}
{charts}
{panels}
<div id="tip" role="tooltip"></div>
<script>
{script}</script>
</body>
</html>
"""
_TABS = {
    "size": marked("size"), "latency": marked("latency"), "memory": marked("memory"),
    "energy": marked("energy"),
}  # fmt: skip


def front_html(findings: Judged, stop_reason: str | None = None) -> str:
    """The whole page; `stop_reason` is None while it runs."""
    record = findings.record
    here = files("paredown.report")
    return _PAGE.format(
        language=current(),
        fonts=FONTS[current()],
        style=here.joinpath("page.css").read_text(encoding="utf-8"),
        script=here.joinpath("page.js").read_text(encoding="utf-8"),
        title=escape(one_line(f"{record.name}: {record.config.model}")),
        summary=escape(_summary(findings)),
        more=_paragraphs(result_lines(findings, stop_reason)),
        charts=_charts(findings),
        panels=_panels(findings),
    )


def _summary(findings: Judged) -> str:
    chosen = findings.result(findings.recommendation.episode)
    reason = findings.recommendation.reason
    if chosen is None:
        return say("No recommendation: {reason}", reason=reason)
    return say("Recommended: {name}: {reason}", name=name_of(chosen), reason=reason)


# --- The chart ------------------------------------------------------------------------------------


def _charts(findings: Judged) -> str:
    """A chart for each quantity that was measured, behind tabs, and what its marks mean."""
    names = objectives_shown(findings)
    if not names:
        return ""
    tabs = [
        (f"chart-{name}", say(_TABS.get(name, QUANTITIES[name].axis)), chart_svg(findings, name))
        for name in names
    ]
    return f"{_tabbed(tabs)}\n{_keys(findings)}"


def _keys(findings: Judged) -> str:
    results = [r for r in findings.record.results if r.status == "ok"]
    colour = colours(findings.record.results)
    shown = [
        _key(escape(say(method)), f"fill:{colour[method]};stroke:{colour[method]}")
        for method in sorted({method_of(r) for r in results} - {BASELINE})
    ]
    if any(map(is_pipeline, results)):
        shown.append(
            _key(escape(say("pipeline (colour: last step)")), "fill:gray", "M1,1H13V13H1Z")
        )
    if any(r not in findings.front for r in results):
        shown.append(_key(escape(say("not on the front")), "fill:none;stroke:gray;stroke-width:2"))
    return f'<p class="keys">{"".join(shown)}</p>'


def _key(text: str, style: str, path: str = "M2,7a5,5 0 1,0 10,0a5,5 0 1,0 -10,0Z") -> str:
    picture = f'<svg viewBox="0 0 14 14"><path style="{style}" d="{path}"/></svg>'
    return f"<span>{picture} {text}</span>"


# --- What stands behind it ------------------------------------------------------------------------


def _panels(findings: Judged) -> str:
    record = findings.record
    parts = episode_parts(findings)
    linked = frozenset(parts)
    front = front_rows(record.results, findings.front, findings.recommendation)
    notes = [LEGEND, *front_notes(record.results, findings.front)]
    tabs = [
        (
            "tab-front",
            say("Front"),
            _table(FRONT_COLUMNS, front, linked)
            + "".join(f"<p>{escape(say(note))}</p>" for note in notes)
            + _energy(findings),
        )
    ]
    if scores := score_rows(record.results):
        tabs.append(("tab-scores", say("Benchmarks"), _table(SCORE_COLUMNS, scores, linked)))
    if bits := _bits(findings):
        tabs.append(("tab-bits", say("Bits by layer"), bits))
    everything = episode_rows(record.results, findings.front, findings.recommendation)
    if record.results:
        tabs.append(
            ("tab-episodes", say("Episodes"), _table(EPISODE_COLUMNS, everything, linked)
             + "\n".join(parts.values()))
        )  # fmt: skip
    told = "\n".join(map(_section, story(findings)))
    if told:
        tabs.append(("tab-story", say("How it was searched"), told))
    if failed := failures(record.results):
        tabs.append(("tab-failed", say("Failed"), _table(FAILURE_COLUMNS, failed, linked)))
    return _tabbed(tabs)


def _tabbed(tabs: Sequence[tuple[str, str, str]]) -> str:
    """Panels by id and title; the title is written above each where no script hides the others."""
    buttons = "".join(
        f'<button type="button" role="tab" data-panel="{name}">{escape(title)}</button>'
        for name, title, _ in tabs
    )
    panels = "\n".join(
        f'<section class="panel" id="{name}" role="tabpanel" aria-label="{escape(title)}">\n'
        f"<h2>{escape(title)}</h2>\n{content}\n</section>"
        for name, title, content in tabs
    )
    return f'<div class="tabs" role="tablist">{buttons}</div>\n{panels}'


def _bits(findings: Judged) -> str:
    """What each layer of the recommended model got, where it was made from a plan."""
    found = planned(findings)
    if found is None:
        return ""
    section = plan_section(found)
    plan = heat_map(found.plan)
    head = "".join(f"<th>{escape(kind)}</th>" for kind in ("", *plan.kinds))
    rows = "\n".join(
        f"<tr><th>{index}</th>" + "".join(_cell(row.get(kind)) for kind in plan.kinds) + "</tr>"
        for index, row in plan.rows.items()
    )
    ends = "".join(
        f"<tr><th>{escape(name)}</th>{_cell(bits)}</tr>" for name, bits in plan.outside.items()
    )
    return (
        f"{_paragraphs(section.lines)}\n"
        f"{html_table(section.columns, section.rows, style='words')}\n"
        f'<div class="wide"><table class="map" id="bits"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}\n{ends}</tbody></table></div>"
    )


def _cell(bits: float | None) -> str:
    if bits is None:
        return "<td></td>"
    share = min(max(bits - 2, 0) / 6, 1.0)
    kind = ' class="much"' if share > 0.55 else ""
    return f'<td{kind} style="--share:{100 * share:.0f}%">{bits:g}</td>'


def _table(columns: Sequence[str], rows: Sequence[tuple[str, ...]], linked: frozenset[int]) -> str:
    """A table that can be sorted and, where it is long, filtered; its numbers lead to episodes."""
    box = ""
    if len(rows) > 8:
        said = escape(say("show rows with ..."))
        box = f'<input class="filter" type="search" placeholder="{said}" aria-label="{said}">\n'
    table = html_table(columns, rows, style="sortable", links=_links(rows, linked))
    return f'<div class="wide">{box}{table}</div>'


def _links(rows: Sequence[tuple[str, ...]], linked: frozenset[int]) -> list[str | None]:
    """Where the first cell of each row leads: to the episode whose number it begins with."""
    numbers = (row[0].partition(" ")[0] for row in rows)
    return [f"#episode-{n}" if n.isdigit() and int(n) in linked else None for n in numbers]


def _section(section: Section) -> str:
    title, lines = escape(section.title), _paragraphs(section.lines)
    if not section.rows:
        return f"<h2>{title}</h2>\n{lines}"
    table = html_table(section.columns, section.rows, style="words")
    return f'<h2>{title}</h2>\n{lines}\n<div class="wide">{table}</div>'


def _paragraphs(lines: Sequence[str]) -> str:
    return "\n".join(f"<p>{escape(one_line(line, 2000))}</p>" for line in lines)


def _energy(findings: Judged) -> str:
    return "\n".join(f"<p>{escape(line)}</p>" for line in energy_lines(findings))
