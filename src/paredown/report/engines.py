"""The section of a report on other engines: measured where they were named, else estimated."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from paredown.judge.across import Across, Point, across
from paredown.judge.quantities import loss
from paredown.language import headings, marked, say
from paredown.language.recorded import recorded
from paredown.report.commands import compress_command
from paredown.report.findings import Judged
from paredown.spec.elsewhere import Elsewhere
from paredown.spec.result import TrialResult
from paredown.spec.units import human_bytes
from paredown.store.elsewhere import read_elsewhere

COLUMNS = headings(
    "engine", "episode", "strategy", "size", "quality loss", "ms per token", "first token, ms",
    "peak memory", "front of all", "take",
)  # fmt: skip
_PROMISED = "engines"
_BY = {
    "calibrated": marked("by what it was measured to reach on this machine"),
    "elsewhere": marked(
        "as SmolLM2-135M does on two other processors; `paredown match --calibrate --runtime "
        "{runtime}` measures this one"
    ),
}
"""Where an estimate comes from."""


def by_engine(findings: Judged) -> dict[str, list[TrialResult]]:
    """Results by engine: those of the front in the engine of the search, and what others made."""
    config = findings.record.config
    mine = [r for r in findings.record.results if r.episode == 0 or r in findings.on_front]
    found = {config.runtime: mine}
    for row in read_elsewhere(findings.record.folder):
        if row.result is not None:
            found.setdefault(row.runtime, []).append(row.result)
    return found


def all_engines(findings: Judged) -> Across | None:
    """The results of all engines judged together; None where there is one engine only."""
    found, config = by_engine(findings), findings.record.config
    return across(found, config.objectives, config.limits) if len(found) > 1 else None


def engine_rows(findings: Judged, judged: Across) -> list[tuple[str, ...]]:
    """A row for each result in each engine."""
    results = by_engine(findings)
    bases = {
        runtime: next((r for r in found if r.episode == 0), None)
        for runtime, found in results.items()
    }
    return [_row(point, bases[point.runtime]) for point in judged.points]


def _row(point: Point, base: TrialResult | None) -> tuple[str, ...]:
    result = point.result
    lost = 0.0 if result.episode == 0 else loss(result, base)
    return (
        point.runtime,
        str(result.episode),
        result.label,
        _bytes(result.value("size")),
        "" if lost is None else f"{lost:+.1f} %",
        _ms(result.value("decode_latency")),
        _ms(result.value("prefill_latency")),
        _bytes(result.value("peak_memory")),
        say("yes") if point.on_front else "",
        say("yes") if point.recommended else "",
    )


def _bytes(value: float | None) -> str:
    return "" if value is None else human_bytes(value)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def take_commands(findings: Judged, judged: Across) -> list[str]:
    """How to make and deliver what is to be taken, its engine named."""
    chosen = judged.chosen
    if chosen is None or chosen.result.episode == 0:
        return []
    config = findings.record.config.model_copy(update={"runtime": chosen.runtime})
    lines = [compress_command(chosen.result, config)]
    if chosen.result.artifact is not None:
        words = ["paredown", "deploy", chosen.result.artifact, "--to", chosen.runtime]
        lines.append(shlex.join([*words, "-o", "PACKAGE"]))
    return lines


def refusals(findings: Judged) -> list[str]:
    """Why an engine has no number for a result, a line each."""
    return [
        say(
            "{engine}, episode {number}: {why}",
            engine=row.runtime,
            number=row.episode,
            why=recorded(why),
        )
        for row in read_elsewhere(findings.record.folder)
        if (why := _why(row)) is not None
    ]


def _why(row: Elsewhere) -> str | None:
    if row.result is None:
        return row.refused
    return None if row.result.failure is None else row.result.failure.message


def promises(findings: Judged) -> list[str]:
    """What other engines that are on this machine would bring, estimated, a line each."""
    told = [e for e in findings.record.events if e["event"] == _PROMISED]
    rows: Sequence[dict[str, object]] = told[-1]["promised"] if told else ()
    return [
        say(
            "{runtime} is here and holds episode {episode} exactly; it is estimated to decode it "
            "{low} to {high} times as fast ({by}; the model itself was not run in it): --runtime "
            "{runtime}",
            runtime=row["runtime"],
            episode=row["episode"],
            low=f"{row['low']:.1f}",
            high=f"{row['high']:.1f}",
            by=say(_BY[str(row["by"])], runtime=row["runtime"]),
        )
        for row in rows
    ]
