"""Results as sentences describe them: what one has, and how it differs from another."""

from __future__ import annotations

from paredown.judge.quantities import QUANTITIES, SCORED, loss, quantity, ratio, speedup
from paredown.judge.quantity import Quantity
from paredown.judge.words import signed_percent, times
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
        smaller = f" ({times(shrink)} smaller)" if shrink and shrink > 1 else ""
        parts.append(human_bytes(size.value) + smaller)
    parts += _quality(result, baseline)
    if (faster := speedup(result, baseline)) is not None:
        parts.append(f"decodes at {times(faster)} the speed")
    if memory is not None:
        parts.append(f"{human_bytes(memory.value)} of memory")
    return ", ".join(parts)


def price(result: TrialResult, baseline: TrialResult | None) -> str:
    """What an artifact costs in quality, in one phrase."""
    return ", ".join(_quality(result, baseline)) or "its loss of quality is not known"


def _quality(result: TrialResult, baseline: TrialResult | None) -> list[str]:
    """The score where there is one, the text, and changed tokens where they are many.

    Perplexity may hide them: a model can say other things and be as sure of them.
    """
    parts = []
    lost, scored = loss(result, baseline), quantity("quality", baseline) is SCORED
    text = QUANTITIES["quality"].over(result, baseline)
    if scored and lost is not None:
        parts.append(f"score {signed_percent(0.0 - lost)}")
    if text is not None and baseline is not None:
        parts.append(f"perplexity {signed_percent(100 * (text.value - 1))}")
    agree = result.value("top1_agreement")
    if agree is not None and 1 - agree >= MANY_FLIPS:
        parts.append(f"{100 * (1 - agree):.0f} of 100 next tokens changed")
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
            (gains if change < 0 else costs).append(
                f"{abs(change):.0f} % {row.less if change < 0 else row.more}"
            )
    mine, theirs = loss(result, baseline), loss(other, baseline)
    if mine is not None and theirs is not None and abs(mine - theirs) >= 0.05:
        if quantity("quality", baseline) is SCORED:  # what is lost of a score is below zero
            # Not `-mine`: what lost nothing would be shown as -0.
            text = f"score {signed_percent(0.0 - mine)} instead of {signed_percent(0.0 - theirs)}"
        else:
            text = f"perplexity {signed_percent(mine)} instead of {signed_percent(theirs)}"
        (gains if mine < theirs else costs).append(text)
    if not gains and not costs:
        return "the same within what was measured"
    return "; but ".join(", ".join(part) for part in (gains, costs) if part)


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
