"""Tables of results as rows of plain text, for terminal, Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Sequence

from paredown.judge.front import ParetoFront
from paredown.judge.quantities import (
    KEPT,
    QUANTITIES,
    SCORED,
    finished_baseline,
    loss,
    quantity,
    ratio,
    speedup,
)
from paredown.judge.recommend import Recommendation
from paredown.judge.words import (
    NONE,
    half_width,
    number,
    one_line,
    signed_percent,
    times,
    with_error,
    with_unit,
)
from paredown.language import headings, marked, say
from paredown.language.recorded import recorded
from paredown.spec.result import Measurement, TrialResult
from paredown.spec.scores import Comparison, TaskScore
from paredown.spec.speed import Timing
from paredown.spec.units import Unit, human_bytes, human_seconds

FRONT_COLUMNS = headings(
    "#", "strategy", "accuracy", "perplexity", "loss", "KL", "ms/token", "speed",
    "memory", "size", "ratio", "J/token",
)  # fmt: skip
EPISODE_COLUMNS = headings("#", "strategy", "kind", "result", *FRONT_COLUMNS[2:], "time")
MEASUREMENT_COLUMNS = headings("name", "value", "unit", "stderr", "n", "source", "how")
SCORE_COLUMNS = headings(
    "#", "strategy", "benchmark", "metric", "score", "95 % interval", "base", "change",
    "lost/gained", "KL", "items",
)  # fmt: skip
SPEED_COLUMNS = headings(
    "prompt", "batch", "prefill ms", "p90", "tokens/s", "ms per step", "p90", "tokens/s", "n",
)  # fmt: skip
NUMBER_COLUMNS = headings("what", "value", "n", "source")
_CONTRADICTION = 0.1
"""Share by which two ways to a speed may differ without a word."""
SPREAD = marked("± is half of a 95 % interval")
"""What ± means in every table."""
LEGEND = marked(
    "* recommended, + runner-up, k knee, ! misses a limit; ± is half of a 95 % interval"
)
"""What the marks behind an episode's number mean, and ± in every table; to be said by `say`."""
FAILURE_COLUMNS = headings("episode", "strategy", "cause")
KINDS = headings(
    "baseline", "quantization", "pruning", "tuning", "pipeline", "out_of_memory", "timeout",
    "method_error", "diverged", "screened", "measured", "derived", "estimated",
)  # fmt: skip
"""Words of the records that tables show, to be said by `say`."""

Rows = list[tuple[str, ...]]
_WHERE_KNOWN = ("accuracy", "J/token")
"""Columns that a table only has where they say something: the score of the benchmarks that were
named, and the energy where the hardware measures it."""


def filled(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], Rows]:
    """The table without those of `_WHERE_KNOWN` that no row fills."""
    kept = [
        i
        for i, name in enumerate(columns)
        if name not in _WHERE_KNOWN or any(row[i] != NONE for row in rows)
    ]
    return tuple(columns[i] for i in kept), [tuple(row[i] for i in kept) for row in rows]


def front_notes(results: Sequence[TrialResult], front: ParetoFront) -> list[str]:
    """Where columns of the front's table seem to contradict each other, why, and which counts.

    A latency is measured when its trial runs, minutes or hours after the base's; machines warm up
    and have other work. The speed is taken in turns with the base, so that both have the same. The
    size of the base is that of its files in the engine that serves, where an engine has files of
    its own; the ratio is to the model as it was given.
    """
    baseline = finished_baseline(tuple(results))
    notes = _base_size(baseline)
    for result in (r for r in results if r in front and r.episode > 0):
        paired = speedup(result, baseline)
        theirs = None if baseline is None else baseline.latency_ms
        if paired is None or theirs is None or not result.latency_ms:
            continue
        apart = theirs / result.latency_ms
        if abs(apart / paired - 1) > _CONTRADICTION:
            notes.append(
                say(
                    "episode {number}: its speed ({speedup}) was taken in turns with the base and "
                    "counts; its ms/token, taken at another time than the base's, would say "
                    "{other}",
                    number=result.episode,
                    speedup=times(paired),
                    other=times(apart),
                )
            )
    return notes


def _base_size(baseline: TrialResult | None) -> list[str]:
    own = None if baseline is None else baseline.get("compression_ratio")
    size = None if baseline is None else baseline.value("size")
    if own is None or size is None or abs(own.value - 1) <= _CONTRADICTION:
        return []
    return [
        say(
            "the base takes {size} in the files of the engine and {given} as it was given; ratios "
            "are to the latter",
            size=human_bytes(round(size)),
            given=human_bytes(round(size * own.value)),
        )
    ]


def front_rows(
    results: Sequence[TrialResult], front: ParetoFront, recommendation: Recommendation | None = None
) -> Rows:
    """One row per result on the front, in the order of `FRONT_COLUMNS`.

    The baseline comes first, on the front or not; the others follow from largest to smallest.
    """
    baseline = finished_baseline(tuple(results))
    chosen = [r for r in results if r in front and r.episode > 0]
    chosen.sort(key=lambda r: (-(r.value("size") or 0.0), r.episode))
    return [
        (_marked(r, front, recommendation), r.label, *_numbers(r, baseline))
        for r in ([baseline] if baseline is not None else []) + chosen
    ]


def episode_rows(
    results: Sequence[TrialResult], front: ParetoFront, recommendation: Recommendation | None = None
) -> Rows:
    """One row per episode, failures included, in the order of `EPISODE_COLUMNS`."""
    baseline = finished_baseline(tuple(results))
    return [
        (
            _marked(r, front, recommendation),
            r.label,
            say(r.kind),
            _outcome(r, front),
            *_numbers(r, baseline),
            human_seconds(r.wall_s),
        )
        for r in results
    ]


def measurement_rows(result: TrialResult) -> Rows:
    """One row per measurement, in the order of `MEASUREMENT_COLUMNS`."""
    return [
        (
            m.name,
            f"{m.value:.0f}" if m.unit is Unit.BYTES else f"{m.value:.6g}",
            m.unit.value,
            NONE if m.stderr is None else f"{m.stderr:.2g}",
            str(m.n),
            say(m.source),
            recorded(m.how),
        )
        for m in result.measurements
    ]


def number_rows(result: TrialResult) -> Rows:
    """What was measured besides benchmarks, in the order of `NUMBER_COLUMNS`."""
    scored = {score.name for score in result.scores}
    return [
        (m.name.replace("_", " "), with_unit(m) + _interval(m), str(m.n), say(m.source))
        for m in result.measurements
        if m.name not in scored
    ]


def _interval(m: Measurement) -> str:
    if m.low is None or m.high is None:
        return ""
    low, high = number(m.low, m.stderr), number(m.high, m.stderr)
    return say(" (95 %: {low} to {high})", low=low, high=high)


def speed_rows(result: TrialResult) -> Rows:
    """One row per point of the grid, in the order of `SPEED_COLUMNS`; `*` where time was up."""
    return [
        (
            str(point.prompt_tokens),
            str(point.batch),
            *_timing(point.prefill),
            *_timing(point.decode),
            str(point.n) if point.tight else f"{point.n} *",
        )
        for point in result.speed
    ]


def _timing(found: Timing) -> tuple[str, str, str]:
    half = (found.high_ms - found.low_ms) / 2
    median = number(found.median_ms, half) + (f" ± {number(half, half)}" if half else "")
    return median, number(found.p90_ms), number(found.tokens_per_s)


def score_rows(results: Sequence[TrialResult]) -> Rows:
    """One row per result and benchmark, in the order of `SCORE_COLUMNS`; subjects stay in JSON."""
    return [
        (
            str(result.episode),
            result.label,
            score.name,
            score.metric,
            f"{100 * score.value:.1f} %",
            say("{low} to {high}", low=f"{100 * score.low:.1f}", high=f"{100 * score.high:.1f}"),
            *_versus_base(score.versus_base),
            _prompt_kl(score.versus_base),
            _items(score),
        )
        for result in results
        for score in result.scores
    ]


def score_notes(result: TrialResult) -> list[str]:
    """What a reader of the scores should know: evaluations that ended early, prompts cut short."""
    notes = [
        say("{name}: stopped {why}", name=s.name, why=recorded(s.stopped))
        for s in result.scores
        if s.stopped is not None
    ]
    notes += [
        say(
            "{name}: {count} of {n} prompts did not fit into the model's context and lost their "
            "beginning",
            name=s.name,
            count=s.n_truncated,
            n=s.n,
        )
        for s in result.scores
        if s.n_truncated
    ]
    return notes


def part_rows(score: TaskScore) -> Rows:
    """subject, score, items: one row per part of a benchmark that has several."""
    return [(name, f"{100 * part.value:.1f} %", str(part.n)) for name, part in score.parts.items()]


def _prompt_kl(versus: Comparison | None) -> str:
    """Divergence from the base after the prompts: it moves where no answer flips yet."""
    return NONE if versus is None or versus.kl is None else number(versus.kl, versus.kl_stderr)


def _items(score: TaskScore) -> str:
    text = say("{n} of {all}", n=score.n, all=score.n_available)
    text += say(" ({n} cut)", n=score.n_truncated) if score.n_truncated else ""
    text += say(" (final)") if score.final else ""
    return text + (say(" (stopped)") if score.stopped else "")


def _versus_base(found: Comparison | None) -> tuple[str, str, str]:
    if found is None:
        return NONE, NONE, NONE
    half = max(found.high - found.difference, found.difference - found.low)
    flips = NONE if found.lost is None else f"{found.lost}/{found.gained}"
    change = f"{100 * found.difference:+.1f} ± {100 * half:.1f}"
    return f"{100 * found.base_value:.1f} %", change, flips


def failures(results: Sequence[TrialResult]) -> Rows:
    """episode, strategy, cause: one row per failed episode."""
    return [
        (
            str(r.episode),
            r.label,
            say(
                "{kind} in {stage}: {message}",
                kind=say(r.failure.kind),
                stage=r.failure.stage,
                message=recorded(one_line(r.failure.message)),
            )
            if r.failure.stage
            else say(
                "{kind}: {message}",
                kind=say(r.failure.kind),
                message=recorded(one_line(r.failure.message)),
            ),
        )
        for r in results
        if r.failure is not None
    ]


def _numbers(result: TrialResult, baseline: TrialResult | None) -> tuple[str, ...]:
    is_baseline = result.episode == 0
    memory, size = result.value("peak_memory"), result.value("size")
    scored = quantity("quality", baseline) is SCORED
    return (
        with_error(result.get("accuracy")) if scored and result.get(KEPT) else NONE,
        with_error(result.get("perplexity")),
        NONE if is_baseline else _loss_with_error(result, baseline),
        NONE if is_baseline else with_error(result.get("kl")),
        with_error(result.get("decode_latency")),
        NONE if is_baseline else times(speedup(result, baseline)),
        NONE if memory is None else human_bytes(memory),
        NONE if size is None else human_bytes(size),
        NONE if is_baseline else times(ratio(result, baseline)),
        with_error(QUANTITIES["energy"].measured(result)),
    )


def _loss_with_error(result: TrialResult, baseline: TrialResult | None) -> str:
    """The loss of quality; its error is that of the comparison on the same items or tokens."""
    text = signed_percent(loss(result, baseline))
    if quantity("quality", baseline) is SCORED:
        kept = result.get(KEPT)
        return text if kept is None or kept.stderr is None else f"{text} ± {half_width(kept):.1%}"
    paired = result.get("perplexity_ratio")
    if paired is None or paired.stderr is None:
        return text
    return f"{text} ± {half_width(paired):.1%}"


def _marked(result: TrialResult, front: ParetoFront, recommendation: Recommendation | None) -> str:
    marks = ""
    if recommendation is not None:
        if result.episode == recommendation.episode:
            marks += "*"
        if result.episode == recommendation.runner_up:
            marks += "+"
        if result.episode == front.knee:
            marks += "k"
        if result.unmet:
            marks += "!"
    return f"{result.episode} {marks}".rstrip()


def _outcome(result: TrialResult, front: ParetoFront) -> str:
    if result.failure is not None:
        return say(result.failure.kind.value)
    if result in front:
        return say("on front")
    return say("dominated") if result.episode in front.compared else say("incomplete")
