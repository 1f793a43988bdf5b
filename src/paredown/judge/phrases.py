"""Results as sentences describe them: what one has, and how it differs from another."""

from __future__ import annotations

from paredown.judge.quantities import QUANTITIES, SCORED, loss, quantity, ratio, speedup
from paredown.judge.quantity import Quantity
from paredown.judge.words import signed_percent, times
from paredown.language import listed, say
from paredown.spec.result import TrialResult
from paredown.spec.units import human_bytes

MANY_FLIPS = 0.1
"""Share of next tokens whose change is said."""


def in_words(result: TrialResult, baseline: TrialResult | None) -> str:
    """The numbers that decide, in one phrase; what was not measured is left out."""
    size, memory = result.get("size"), result.get("peak_memory")
    parts = []
    if size is not None:
        shrink = ratio(result, baseline)
        nbytes = human_bytes(size.value)
        if shrink and shrink > 1:
            parts.append(say("{size} ({ratio} smaller)", size=nbytes, ratio=times(shrink)))
        else:
            parts.append(nbytes)
    parts += _quality(result, baseline)
    if (faster := speedup(result, baseline)) is not None:
        parts.append(say("decodes at {speedup} the speed", speedup=times(faster)))
    if memory is not None:
        parts.append(say("{size} of memory", size=human_bytes(memory.value)))
    return listed(parts)


def price(result: TrialResult, baseline: TrialResult | None) -> str:
    """What an artifact costs in quality, in one phrase."""
    return listed(_quality(result, baseline)) or say("its loss of quality is not known")


def _quality(result: TrialResult, baseline: TrialResult | None) -> list[str]:
    """The score where there is one, the text, and changed tokens where they are many.

    Perplexity may hide them: a model can say other things and be as sure of them.
    """
    parts = []
    lost, scored = loss(result, baseline), quantity("quality", baseline) is SCORED
    text = QUANTITIES["quality"].over(result, baseline)
    if scored and lost is not None:
        parts.append(say("score {change}", change=signed_percent(0.0 - lost)))
    if text is not None and baseline is not None:
        change = signed_percent(100 * (text.value - 1))
        parts.append(say("perplexity {change}", change=change))
    agree = result.value("top1_agreement")
    if agree is not None and 1 - agree >= MANY_FLIPS:
        count = f"{100 * (1 - agree):.0f}"
        parts.append(say("{count} of 100 next tokens changed", count=count))
    return parts


def compared(result: TrialResult, other: TrialResult, baseline: TrialResult | None) -> str:
    """What `result` gives and takes relative to `other`."""
    gains: list[str] = []
    costs: list[str] = []
    for row in QUANTITIES.values():
        share = _ratio(result, other, row) if row.less else None
        if share is None:
            continue
        change = 100 * (share - 1)
        if abs(change) >= 1:
            sentence = row.less if change < 0 else row.more
            (gains if change < 0 else costs).append(say(sentence, percent=f"{abs(change):.0f}"))
    mine, theirs = loss(result, baseline), loss(other, baseline)
    if mine is not None and theirs is not None and abs(mine - theirs) >= 0.05:
        if quantity("quality", baseline) is SCORED:  # what is lost of a score is below zero
            # Not `-mine`: what lost nothing would be shown as -0.
            text = say(
                "score {change} instead of {other}",
                change=signed_percent(0.0 - mine), other=signed_percent(0.0 - theirs),
            )  # fmt: skip
        else:
            text = say(
                "perplexity {change} instead of {other}",
                change=signed_percent(mine), other=signed_percent(theirs),
            )  # fmt: skip
        (gains if mine < theirs else costs).append(text)
    if not gains and not costs:
        return say("the same within what was measured")
    if gains and costs:
        return say("{gains}; but {costs}", gains=listed(gains), costs=listed(costs))
    return listed(gains or costs)


def _ratio(result: TrialResult, other: TrialResult, row: Quantity) -> float | None:
    """A quantity of `result` over that of `other`, if both have it.

    By each one's ratio to the base where both were compared with it side by side (see
    `Quantity.over`); else by the two measurements.
    """
    mine, theirs = (row.over(r, None) for r in (result, other))
    if mine is not None and theirs is not None:
        return mine.value / theirs.value
    first, second = row.value(result), row.value(other)
    if first is None or second is None or not row.comparable(result, other):
        return None
    return first / second
