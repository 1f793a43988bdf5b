"""Of an experiment whose recommended model has a plan: what each layer got, and why. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from paredown.errors import ConfigError
from paredown.judge.words import half_width, name_of, one_line
from paredown.language import headings, listed, say, speaking
from paredown.report.bits_figure import Mark, Series, bits_plot, bits_png
from paredown.report.findings import Judged
from paredown.report.plans import by_kind, summary, why_high
from paredown.report.story import Section
from paredown.spec.plan import PlanRecord
from paredown.spec.result import TrialResult

PLANNER = "mixed"
COLUMNS = headings("kind of layer", "how many", "bits", "forecast KL")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The recommended result and its plan."""

    result: TrialResult
    plan: PlanRecord


def planned(findings: Judged) -> Planned | None:
    """What is recommended, if it was made from a plan and its artifact is here; else None."""
    result = findings.result(findings.recommendation.episode)
    if result is None or result.artifact is None or not _is_planned(result):
        return None
    try:
        plan = PlanRecord.read(findings.record.folder / result.artifact)
    except ConfigError:  # the artifact was taken away, or its description is damaged
        return None
    return Planned(result=result, plan=plan)


def _is_planned(result: TrialResult) -> bool:
    return result.strategy is not None and result.strategy.steps[-1].method == PLANNER


def plan_section(found: Planned) -> Section:
    """The plan in words and as a table: what each kind of layer got, which were kept high, why."""
    lines = [say("{name}: {summary}.", name=name_of(found.result), summary=summary(found.plan))]
    kl = found.result.get("kl")
    if found.plan.kl is not None and kl is not None:
        lines.append(
            say(
                "The forecast was a KL of {forecast} nats per token; measured were {kl} ± {half}.",
                forecast=f"{found.plan.kl:.3g}",
                kl=f"{kl.value:.3g}",
                half=f"{half_width(kl):.2g}",
            )
        )
    lines += [say("{sentence}.", sentence=line) for line in why_high(found.plan)]
    rows = tuple(
        (
            row.kind,
            str(row.layers),
            listed(
                say("{count} in {bits}", count=count, bits=bits) for bits, count in row.bits.items()
            ),
            "" if row.kl is None else f"{row.kl:.3g}",
        )
        for row in by_kind(found.plan)
    )
    return Section(title=say("Bits by layer"), lines=lines, columns=COLUMNS, rows=rows, code=-1)


def _series(findings: Judged) -> list[Series]:
    """Every result with a size and a KL: plans along a line, others as points."""
    plans: list[Mark] = []
    others: list[Mark] = []
    for result in findings.record.results:
        size, kl = result.get("size"), result.get("kl")
        if size is None or kl is None or kl.value <= 0 or result.strategy is None:
            continue
        text = escape(one_line(name_of(result), 200), quote=False)
        mark = Mark(nbytes=size.value, kl=kl.value, half=half_width(kl), text=text)
        (plans if _is_planned(result) else others).append(mark)
    return [
        Series(name=name, marks=sorted(marks, key=lambda m: m.nbytes), is_curve=is_curve)
        for name, marks, is_curve in (
            (say("bits layer by layer"), plans, True),
            (say("all other strategies"), others, False),
        )
        if marks
    ]


def plan_png(findings: Judged, found: Planned) -> bytes:
    """All models by size and KL, and the bits of the recommended one, as a PNG file."""
    title = one_line(f"{findings.record.name}: {findings.record.config.model}", 60)
    with speaking("en"):  # a font for the scripts of the others is not at hand everywhere
        return bits_png(title, _series(findings), found.plan, f"episode {found.result.episode}")


def plan_plot(findings: Judged, found: Planned) -> Any:
    """The same as a plotly figure."""
    name = say("episode {number}", number=found.result.episode)
    return bits_plot(_series(findings), found.plan, name)
