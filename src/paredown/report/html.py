"""pareto_visualization.html: four trade-offs in one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from paredown.judge.quantities import QUANTITIES, SCORED, quantity
from paredown.judge.words import half_width, name_of, one_line, with_unit
from paredown.language import current, listed, marked, say
from paredown.report.energy import energy_lines
from paredown.report.findings import Judged
from paredown.report.markup import html_table
from paredown.report.planned import plan_plot, plan_section, planned
from paredown.report.story import Section, result_lines, story
from paredown.report.style import BASELINE, FONTS, INK, colours, is_pipeline, method_of
from paredown.report.tables import FAILURE_COLUMNS, FRONT_COLUMNS, LEGEND, failures, front_rows
from paredown.spec.result import Measurement, TrialResult
from paredown.spec.run import DEFAULT_OBJECTIVES, Objective

_PAGE = """<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 {fonts}; color: #222; margin: 1.5em auto; max-width: 1250px;
        padding: 0 1em; }}
h1 {{ font-size: 1.4em; margin-bottom: .2em; }}
table {{ border-collapse: collapse; margin: 1em 0; }}
th, td {{ padding: .25em .8em; border-bottom: 1px solid #ddd; text-align: right; }}
th:nth-child(2), td:nth-child(2) {{ text-align: left; }}
table.words th, table.words td {{ text-align: left; vertical-align: top; }}
code {{ overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p><strong>{summary}</strong></p>
{more}
{plot}
<h2>{front}</h2>
{table}
<p>{legend}</p>
{bits}
{story}
{failed}
{energy}
</body>
</html>
"""


@dataclass(frozen=True, kw_only=True)
class PlotAxis:
    """One measured quantity as an axis."""

    measurement: str
    title: str
    divisor: float = 1.0

    @classmethod
    def of(cls, objective: Objective) -> PlotAxis:
        """As the table of quantities names it."""
        row = QUANTITIES[objective]
        return cls(measurement=row.measurement, title=row.axis, divisor=row.divisor)


QUALITY, SIZE, LATENCY, MEMORY, ENERGY = map(PlotAxis.of, DEFAULT_OBJECTIVES)
ACCURACY = PlotAxis(measurement="accuracy", title=marked("accuracy (higher is better)"))
"""The score of the benchmarks, where they are what counts."""
PANELS: tuple[tuple[str, PlotAxis, PlotAxis], ...] = (
    (marked("Quality against latency"), LATENCY, QUALITY),
    (marked("Quality against memory"), MEMORY, QUALITY),
    (marked("Quality against size"), SIZE, QUALITY),
    (marked("Latency against memory"), MEMORY, LATENCY),
)
_LOG_FROM = 20.0
"""Largest over smallest value from which an axis is logarithmic."""


def front_html(findings: Judged, stop_reason: str | None = None) -> str:
    """The whole page; it asks the network for nothing. `stop_reason` is None while it runs."""
    record = findings.record
    return _PAGE.format(
        language=current(),
        fonts=FONTS[current()],
        front=escape(say("Front")),
        title=escape(one_line(f"{record.name}: {record.config.model}")),
        summary=escape(_summary(findings)),
        more=_paragraphs(result_lines(findings, stop_reason)),
        plot=_figure(findings).to_html(
            full_html=False,
            include_plotlyjs=True,
            include_mathjax=False,
            config={"displaylogo": False, "responsive": True},
            div_id="front",
        ),
        table=html_table(
            FRONT_COLUMNS, front_rows(record.results, findings.front, findings.recommendation)
        ),
        legend=escape(say(LEGEND)),
        bits=_bits(findings),
        story="\n".join(map(_section, story(findings))),
        failed=_failed(findings),
        energy=_energy(findings),
    )


def _bits(findings: Judged) -> str:
    """What each layer of the recommended model got, where it was made from a plan."""
    found = planned(findings)
    if found is None:
        return ""
    # The library is in the page already.
    plot = plan_plot(findings, found).to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False}, div_id="bits"
    )
    return _section(plan_section(found)) + "\n" + str(plot)


def _summary(findings: Judged) -> str:
    chosen = findings.result(findings.recommendation.episode)
    reason = findings.recommendation.reason
    if chosen is None:
        return say("No recommendation: {reason}", reason=reason)
    return say("Recommended: {name}: {reason}", name=name_of(chosen), reason=reason)


def panels(findings: Judged) -> tuple[tuple[str, PlotAxis, PlotAxis], ...]:
    """Title, x and y of each: energy where it was measured, the score where one was asked for."""
    shown = PANELS
    if any(QUANTITIES["energy"].measured(r) for r in findings.record.results):
        shown = (*shown, (marked("Quality against energy"), ENERGY, QUALITY))
    scored = quantity("quality", findings.baseline) is SCORED
    return tuple((title, x, ACCURACY if scored and y is QUALITY else y) for title, x, y in shown)


def _figure(findings: Judged) -> Any:
    from plotly.graph_objects import Figure
    from plotly.subplots import make_subplots

    shown = panels(findings)
    lines = -(-len(shown) // 2)
    figure: Figure = make_subplots(
        rows=lines,
        cols=2,
        subplot_titles=[say(title) for title, _, _ in shown],
        horizontal_spacing=0.09,
        vertical_spacing=0.26 / lines,
    )
    finished = [r for r in findings.record.results if r.status == "ok"]
    named: set[str] = set()
    for index, (_, x, y) in enumerate(shown):
        row, column = divmod(index, 2)
        for trace in _traces(findings, finished, x, y):
            trace.update(showlegend=trace["legendgroup"] not in named)
            named.add(trace["legendgroup"])
            figure.add_trace(trace, row=row + 1, col=column + 1)
        figure.update_xaxes(
            title_text=say(x.title), type=_axis_type(finished, x), row=row + 1, col=column + 1
        )
        figure.update_yaxes(
            title_text=say(y.title), type=_axis_type(finished, y), row=row + 1, col=column + 1
        )
    figure.update_layout(
        template="plotly_white",
        height=450 * lines,
        hovermode="closest",
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "y": -0.09},
        margin={"l": 60, "r": 20, "t": 40, "b": 40},
    )
    return figure


def _traces(
    findings: Judged, finished: Sequence[TrialResult], x: PlotAxis, y: PlotAxis
) -> list[Any]:
    from plotly.graph_objects import Scatter

    both = [r for r in finished if r.get(x.measurement) and r.get(y.measurement)]
    colour = colours(findings.record.results)
    traces = [_line(findings, both, x, y)]
    for method in [*sorted({method_of(r) for r in both} - {BASELINE}), BASELINE]:
        mine = [r for r in both if method_of(r) == method]
        if not mine:
            continue
        traces.append(
            Scatter(
                x=[_value(r, x) for r in mine],
                y=[_value(r, y) for r in mine],
                error_x=_errors(mine, x),
                error_y=_errors(mine, y),
                mode="markers",
                name=escape(say(method), quote=False),
                legendgroup=f"method {method}",
                text=[hover(r, findings) for r in mine],
                hovertemplate="%{text}<extra></extra>",
                marker={
                    "color": colour[method],
                    "symbol": [_symbol(r, findings) for r in mine],
                    "size": [_size(r, findings) for r in mine],
                    "line": {"width": 2, "color": colour[method]},
                },
            )
        )
    return traces


def _line(findings: Judged, results: Sequence[TrialResult], x: PlotAxis, y: PlotAxis) -> Any:
    """Dotted through the front, left to right; in these two axes alone it may zigzag."""
    from plotly.graph_objects import Scatter

    ordered = sorted((r for r in results if r in findings.front), key=lambda r: _value(r, x))
    return Scatter(
        x=[_value(r, x) for r in ordered],
        y=[_value(r, y) for r in ordered],
        mode="lines",
        name=say("front (over all objectives)"),
        legendgroup="front",
        line={"color": INK, "width": 1, "dash": "dot"},
        hoverinfo="skip",
    )


def hover(result: TrialResult, findings: Judged) -> str:
    """Strategy and every number with its standard error; plotly reads a little HTML in it."""
    roles = [
        role
        for role, is_so in (
            (say("recommended"), result.episode == findings.recommendation.episode),
            (say("runner-up"), result.episode == findings.recommendation.runner_up),
            (say("knee"), result.episode == findings.front.knee),
            (say("on the front"), result in findings.front),
        )
        if is_so
    ]
    called = say("episode {number}", number=result.episode)
    lines = [f"<b>{called}</b>" + (f" ({listed(roles)})" if roles else "")]
    # plotly knows &lt; &gt; &amp;, but neither &quot; nor &#x27;
    lines += [escape(part, quote=False) for part in _wrapped(one_line(result.label, 400))]
    lines += [
        f"{escape(m.name.replace('_', ' '), quote=False)}: {with_unit(m)}"
        + ("" if m.source == "measured" else f" ({say(m.source)})")
        for m in result.measurements
    ]
    lines += [
        escape(say("limit missed: {limit}", limit=limit), quote=False)
        for limit in findings.missed(result)
    ]
    return "<br>".join(lines)


def _wrapped(label: str) -> list[str]:
    """One step of a pipeline a line, long ones cut into pieces."""
    steps = label.split(" > ")
    lines = [("> " if i else "") + step for i, step in enumerate(steps)]
    return [line[start : start + 80] for line in lines for start in range(0, len(line), 80)]


def _value(result: TrialResult, axis: PlotAxis) -> float:
    value = result.value(axis.measurement)
    return 0.0 if value is None else value / axis.divisor


def _errors(results: Sequence[TrialResult], axis: PlotAxis) -> dict[str, Any]:
    measurements: list[Measurement | None] = [r.get(axis.measurement) for r in results]
    spread = [(half_width(m) if m else 0.0) / axis.divisor for m in measurements]
    return {"type": "data", "array": spread, "thickness": 1, "width": 3, "visible": any(spread)}


def _symbol(result: TrialResult, findings: Judged) -> str:
    if result.episode == 0:
        return "star"
    shape = "square" if is_pipeline(result) else "circle"
    return shape if result in findings.front else f"{shape}-open"


def _size(result: TrialResult, findings: Judged) -> int:
    if result.episode == 0:
        return 17
    return 12 if result in findings.front else 8


def _axis_type(results: Sequence[TrialResult], axis: PlotAxis) -> str:
    values = [v for r in results if (v := r.value(axis.measurement)) is not None and v > 0]
    return "log" if values and max(values) / min(values) >= _LOG_FROM else "linear"


def _section(section: Section) -> str:
    table = html_table(section.columns, section.rows, style="words") if section.rows else ""
    return f"<h2>{escape(section.title)}</h2>\n{_paragraphs(section.lines)}\n{table}"


def _paragraphs(lines: Sequence[str]) -> str:
    return "\n".join(f"<p>{escape(one_line(line, 2000))}</p>" for line in lines)


def _energy(findings: Judged) -> str:
    return "\n".join(f"<p>{escape(line)}</p>" for line in energy_lines(findings))


def _failed(findings: Judged) -> str:
    rows = failures(findings.record.results)
    heading = escape(say("Failed"))
    return f"<h2>{heading}</h2>\n" + html_table(FAILURE_COLUMNS, rows) if rows else ""
