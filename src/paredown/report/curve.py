"""A curve of plans: what was found in words, as a table, as a picture and as a page. No torch."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from html import escape
from pathlib import Path

from paredown.analysis.envelope import Gain, Judged, gain_over
from paredown.analysis.forecast import ForecastQuality, forecast_quality
from paredown.judge.words import LEVEL_95
from paredown.report.bits_figure import Mark, Series, bits_plot, bits_png
from paredown.report.plans import summary, why_high
from paredown.spec.front import CurveRecord, FrontPoint
from paredown.spec.units import human_bytes
from paredown.store.atomic import write_bytes, write_json, write_text

RECORD_FILE = "front.json"
TABLE_FILE = "front.csv"
FIGURE_FILE = "front.png"
PAGE_FILE = "front.html"
REPORT_FILE = "report.md"
PLANS_FOLDER = "plans"
_HEAD = (
    "point", "bytes", "bits_per_weight", "kl", "kl_stderr", "forecast_kl", "perplexity",
    "top1_agreement", "kl_over_uniform", "gain",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A measured point beside the uniform models.

    Attributes:
        gain: over the uniform curve at equal bytes; None for a uniform point, or outside its sizes.
    """

    point: FrontPoint
    judged: Judged
    gain: Gain | None


def rows(record: CurveRecord) -> list[Row]:
    """All measured points, uniform ones first."""
    reference = [_judged(p) for p in record.of_kind("uniform")]
    made = [Row(p, _judged(p), None) for p in record.of_kind("uniform")]
    for point in record.of_kind("mixed"):
        judged = _judged(point)
        made.append(Row(point, judged, gain_over(reference, judged)))
    return made


def _judged(point: FrontPoint) -> Judged:
    kl, size = point.get("kl"), point.get("size")
    if kl is None or size is None:
        raise AssertionError(f"{point.name} was measured without KL or size")
    return Judged(size.value, kl.value, kl.stderr or 0.0)


def quality_of(record: CurveRecord) -> ForecastQuality:
    """How the forecasts of the mixed points agree with what was measured."""
    known = [(p.plan.kl, _judged(p).kl) for p in record.of_kind("mixed") if p.plan.kl is not None]
    return forecast_quality([f for f, _ in known], [m for _, m in known])


def lines(record: CurveRecord) -> list[str]:
    """The table in plain text, what the forecast was worth, and what the smallest gain is."""
    cells = [("point", "size", "bits/weight", "KL", "forecast", "top-1", "against uniform")]
    for row in rows(record):
        top = row.point.get("top1_agreement")
        forecast = row.point.plan.kl
        cells.append(
            (
                row.point.name,
                human_bytes(row.judged.nbytes),
                f"{8 * row.judged.nbytes / row.point.plan.parameters:.2f}",
                f"{row.judged.kl:.4f} ± {1.96 * row.judged.stderr:.4f}",
                "" if forecast is None else f"{forecast:.4f}",
                "" if top is None else f"{100 * top.value:.1f} %",
                _against(row),
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    found = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    found += [f"{p.name}: {p.failure}" for p in record.points if p.failure is not None]
    quality = quality_of(record)
    if quality.rank_correlation is not None and quality.median_error is not None:
        found.append(
            f"forecast: rank correlation {quality.rank_correlation:.2f}, median error "
            f"{100 * quality.median_error:.0f} % over {quality.n} plans"
        )
    return found


def _against(row: Row) -> str:
    if row.gain is None:
        return ""
    said = f"KL x {row.gain.ratio:.2f}"
    return said if row.gain.is_sure else f"{said}, no sure gain"


def write_curve(folder: Path, record: CurveRecord) -> None:
    """Write record, table and plans; and, once all points are done, picture, page and report."""
    for point in record.points:
        path = folder / PLANS_FOLDER / f"{point.name}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, point.plan)
    write_text(folder / TABLE_FILE, _csv(record))
    write_json(folder / RECORD_FILE, record)
    if record.points and all(p.is_done for p in record.points) and rows(record):
        write_bytes(folder / FIGURE_FILE, _figure(record))
        write_text(folder / PAGE_FILE, _page(record))
        write_text(folder / REPORT_FILE, report(record))


def _csv(record: CurveRecord) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEAD)
    for row in rows(record):
        ppl, top = row.point.get("perplexity"), row.point.get("top1_agreement")
        writer.writerow(
            [
                row.point.name, round(row.judged.nbytes),
                round(8 * row.judged.nbytes / row.point.plan.parameters, 4),
                row.judged.kl, row.judged.stderr, row.point.plan.kl,
                None if ppl is None else ppl.value, None if top is None else top.value,
                None if row.gain is None else row.gain.ratio,
                None if row.gain is None else row.gain.is_sure,
            ]
        )  # fmt: skip
    return text.getvalue()


def chosen(record: CurveRecord) -> FrontPoint | None:
    """The point whose plan is drawn: the sure gain that saves most, else the middle one."""
    mixed = [row for row in rows(record) if row.point.kind == "mixed"]
    sure = [row for row in mixed if row.gain is not None and row.gain.is_sure]
    if sure:
        return min(sure, key=lambda row: row.gain.ratio if row.gain else 1.0).point
    return mixed[len(mixed) // 2].point if mixed else None


def _series(record: CurveRecord) -> list[Series]:
    """The measured points by kind, smallest first."""
    return [
        Series(
            name=kind,
            marks=[
                Mark(
                    nbytes=row.judged.nbytes,
                    kl=row.judged.kl,
                    half=LEVEL_95 * row.judged.stderr,
                    text=f"{row.point.name}: {_against(row)}".removesuffix(": "),
                )
                for row in sorted(rows(record), key=lambda row: row.judged.nbytes)
                if row.point.kind == kind and row.judged.kl > 0
            ],
        )
        for kind in ("uniform", "mixed")
        if record.of_kind(kind)
    ]


def _figure(record: CurveRecord) -> bytes:
    """The curve, and beside it bits by block and kind of the chosen point."""
    point = chosen(record)
    plan, name = (None, "") if point is None else (point.plan, point.name)
    return bits_png(record.model, _series(record), plan, name)


def report(record: CurveRecord) -> str:
    """report.md: the picture, what the chosen plan keeps high and why, and the table."""
    point = chosen(record)
    parts = [f"# The curve of `{record.model.replace('`', '')}`", f"![]({FIGURE_FILE})"]
    if point is not None:
        parts.append(f"{point.name}, drawn on the right: {summary(point.plan)}.")
        parts += [f"- {line}" for line in why_high(point.plan)]
        parts.append(
            "To make it: `paredown compress -m MODEL -s "
            f"'mixed(plan=\"{PLANS_FOLDER}/{point.name}.json\")' -o DIR`"
        )
    return "\n\n".join([*parts, "```\n" + "\n".join(lines(record)) + "\n```"]) + "\n"


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title>{title}</title>
<style>body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1.5em auto; max-width: 1200px; }}
pre {{ overflow-x: auto; }}</style></head>
<body><h1>{title}</h1>{plot}<pre>{table}</pre><ul>{why}</ul></body></html>
"""


def _page(record: CurveRecord) -> str:
    """The curve to look into, the plan of the chosen point, and the table."""
    point = chosen(record)
    plan, name = (None, "") if point is None else (point.plan, point.name)
    figure = bits_plot(_series(record), plan, name)
    why = "" if point is None else "".join(f"<li>{escape(w)}</li>" for w in why_high(point.plan))
    return _PAGE.format(
        title=escape(f"The curve of {record.model}"),
        plot=figure.to_html(full_html=False, include_plotlyjs=True),
        table=escape("\n".join(lines(record))),
        why=why,
    )
