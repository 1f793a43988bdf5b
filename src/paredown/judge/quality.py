"""What counts as quality: the benchmarks that the user named, and how much of the base's is kept.

A result that was scored carries the measurement `quality`: the share of the base's score that it
keeps, with the interval of the paired comparison on the same items. Where the baseline carries it,
quality is that; else it is the perplexity of the text. So a record says by itself how it is to be
judged, and what was not scored is never compared with what was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from paredown.judge.limits import unmet
from paredown.judge.quantities import KEPT, POINTS, PROMPT_KL
from paredown.judge.quantity import Z95, Reading
from paredown.spec.result import Measurement, TrialResult, flat_fields
from paredown.spec.scores import TaskScore
from paredown.spec.target import Limits
from paredown.spec.units import Unit

_LEAST = 1e-6
"""Share of the base's value below which a falling metric counts as this share."""
_TEXT = "token_accuracy"
"""How the text's accuracy is called where `accuracy` is the score of benchmarks."""


def with_quality(result: TrialResult, quality: str, *, is_base: bool | None = None) -> TrialResult:
    """The result with what counts as its quality, made new from its scores.

    Args:
        quality: `auto`, `perplexity`, `kl` or a benchmark, as in `RunConfig.quality`.
        is_base: whether it is the base itself; None: if it has no strategy.

    `accuracy` becomes the score of the benchmark; of several, the mean share of the base's score
    that is kept. The text's accuracy goes on as `token_accuracy`.
    """
    is_base = result.strategy is None if is_base is None else is_base
    bare = _without_quality(result.measurements)
    if result.status == "failed" or quality == "perplexity":
        return _with(result, bare)
    if quality == "kl":
        return _with(result, (*bare, *_from_kl(result, is_base=is_base)))
    chosen = [s for s in result.scores if quality in {"auto", s.name}]
    kept = _kept(chosen, is_base=is_base)
    if kept is None:
        return _with(result, bare)
    renamed = tuple(
        m.model_copy(update={"name": _TEXT}) if m.name == "accuracy" else m for m in bare
    )
    return _with(
        result,
        (
            *renamed,
            _accuracy(chosen, kept),
            kept,
            *_points(chosen, is_base=is_base),
            *_prompt_kl(chosen),
        ),
    )


def judged(
    result: TrialResult, baseline: TrialResult | None, *, quality: str, limits: Limits | None
) -> TrialResult:
    """The result with its quality, and with the limits that it is not known to meet."""
    known = with_quality(result, quality)
    if limits is None or baseline is None or known.status == "failed":
        return known
    return known.model_copy(update={"unmet": unmet(known, baseline, limits)})


def _without_quality(measurements: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """What was measured besides; scores are asked again on more items, and then replace these."""
    was_scored = any(m.name == POINTS for m in measurements)  # so `accuracy` is not the text's
    kept = [
        m
        for m in measurements
        if m.name not in {KEPT, POINTS, PROMPT_KL} and not (was_scored and m.name == "accuracy")
    ]
    return tuple(m.model_copy(update={"name": "accuracy"}) if m.name == _TEXT else m for m in kept)


def _with(result: TrialResult, measurements: tuple[Measurement, ...]) -> TrialResult:
    fields = {"measurements": measurements, **flat_fields(measurements)}
    return result.model_copy(update=fields)


def _from_kl(result: TrialResult, *, is_base: bool) -> list[Measurement]:
    """exp(-KL): the geometric mean of the probability ratio, 1 where nothing has changed."""
    found = result.get("kl")
    if is_base:
        return [_measurement(1.0, 1.0, 1.0, n=1, how="the base itself")]
    if found is None:
        return []
    kept = Reading.of(found).mapped(lambda kl: math.exp(-kl))
    how = "exp(-KL) to the base's next-token probabilities on the text"
    return [_measurement(kept.value, kept.low, kept.high, n=found.n, how=how)]


def _kept(scores: Sequence[TaskScore], *, is_base: bool) -> Measurement | None:
    """Mean share kept; None where no benchmark was scored against a base that scores at all."""
    names = ", ".join(score.name for score in scores)
    if is_base:
        how = f"the base itself on {names}"
        return _measurement(1.0, 1.0, 1.0, n=1, how=how) if scores else None
    shares = [share for score in scores if (share := share_kept(score)) is not None]
    if not shares:
        return None
    mean = _mean(shares)
    n = sum(score.n for score in scores)
    how = f"share of the base's score that is kept on {names}, item by item"
    if len(shares) > 1:
        how = f"mean share of the base's score that is kept on {names}, item by item"
    return _measurement(mean.value, mean.low, mean.high, n=n, how=how)


def _mean(readings: Sequence[Reading]) -> Reading:
    """Of different benchmarks: they ask different items, so their errors are independent."""
    value = sum(each.value for each in readings) / len(readings)
    down = math.hypot(*(each.value - each.low for each in readings)) / len(readings)
    up = math.hypot(*(each.high - each.value for each in readings)) / len(readings)
    return Reading(value=value, low=value - down, high=value + up)


def share_kept(score: TaskScore) -> Reading | None:
    """Share of the base's score that is kept, with its paired interval; None where it was not
    compared with a base that scores at all."""
    found = score.versus_base
    # A base that scores nothing has nothing to lose: no share can be taken of it.
    if found is None or found.base_value <= 0:
        return None
    base = found.base_value
    change = Reading(value=found.difference, low=found.low, high=found.high)  # better is positive
    if score.higher_is_better:
        return change.mapped(lambda better: (base + better) / base)
    # The lower the better: mine is base - better, and what is kept is base over mine.
    return change.mapped(lambda better: base / max(base - better, base * _LEAST))


def _points(scores: Sequence[TaskScore], *, is_base: bool) -> list[Measurement]:
    compared = [score.versus_base for score in scores if score.versus_base is not None]
    if not compared and not is_base:
        return []
    mean, n = Reading(value=0.0, low=0.0, high=0.0), 1
    if compared:
        mean = _mean([Reading(value=c.difference, low=c.low, high=c.high) for c in compared])
        n = sum(each.n for each in compared)
    points = mean.mapped(lambda change: 100 * change)
    return [
        Measurement(
            name=POINTS, value=points.value, unit=Unit.POINTS, n=n,
            stderr=(points.high - points.low) / (2 * Z95) if n > 1 else None,
            low=points.low, high=points.high, lower_is_better=False, source="derived",
            how="mean change of the score against the base's on the same items",
        )
    ]  # fmt: skip


def _prompt_kl(scores: Sequence[TaskScore]) -> list[Measurement]:
    """Over the items of all benchmarks; none where one of them does not tell.

    It comes from the pass that scores, on the same items of both models, and is far finer than the
    score: no answer has to flip for it to move.
    """
    told = [s.versus_base for s in scores if s.versus_base is not None]
    means = [(each.n, each.kl, each.kl_stderr) for each in told if each.kl is not None]
    if not means or len(means) < len(scores):
        return []
    n = sum(count for count, _, _ in means)
    errors = [count * (stderr or 0.0) for count, _, stderr in means]
    return [
        Measurement(
            name=PROMPT_KL, value=sum(count * kl for count, kl, _ in means) / n,
            unit=Unit.NATS_PER_TOKEN, n=n, stderr=math.hypot(*errors) / n if n > 1 else None,
            lower_is_better=True, source="measured",
            how="KL(base, artifact) of the token after each item's prompt, over the likeliest "
            "tokens of each and all others together: at most the divergence over all tokens",
        )
    ]  # fmt: skip


def _accuracy(scores: Sequence[TaskScore], kept: Measurement) -> Measurement:
    """The score itself; of several benchmarks, what is kept of them."""
    if len(scores) > 1:
        return kept.model_copy(update={"name": "accuracy"})
    (score,) = scores
    return Measurement(
        name="accuracy", value=score.value, unit=Unit.FRACTION, n=score.n,
        stderr=score.stderr if score.n > 1 else None, low=score.low, high=score.high,
        lower_is_better=not score.higher_is_better, source="measured",
        how=f"{score.metric} on {score.name}: {score.how}",
    )  # fmt: skip


def _measurement(value: float, low: float, high: float, *, n: int, how: str) -> Measurement:
    return Measurement(
        name=KEPT, value=value, unit=Unit.FRACTION, n=n,
        stderr=None if n == 1 else (high - low) / (2 * Z95),
        low=low, high=high, lower_is_better=False, source="derived", how=how,
    )  # fmt: skip
