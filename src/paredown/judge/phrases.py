"""Results as sentences describe them: what one has, and how it differs from another."""

from __future__ import annotations

from paredown.judge.quantities import QUANTITIES, Quantity, loss, ratio, speedup
from paredown.judge.words import signed_percent, times
from paredown.spec.result import TrialResult
from paredown.spec.units import human_bytes


def in_words(result: TrialResult, baseline: TrialResult | None) -> str:
    """The numbers that decide, in one phrase; what was not measured is left out."""
    size, memory = result.get("size"), result.get("peak_memory")
    parts = []
    if size is not None:
        shrink = ratio(result, baseline)
        smaller = f" ({times(shrink)} smaller)" if shrink and shrink > 1 else ""
        parts.append(human_bytes(size.value) + smaller)
    if (lost := loss(result, baseline)) is not None:
        parts.append(f"perplexity {signed_percent(lost)}")
    if (faster := speedup(result, baseline)) is not None:
        parts.append(f"decodes at {times(faster)} the speed")
    if memory is not None:
        parts.append(f"{human_bytes(memory.value)} of memory")
    return ", ".join(parts)


def compared(result: TrialResult, other: TrialResult, baseline: TrialResult | None) -> str:
    """What `result` gives and takes relative to `other`."""
    gains: list[str] = []
    costs: list[str] = []
    for quantity in QUANTITIES.values():
        share = _ratio(result, other, quantity) if quantity.less else None
        if share is None:
            continue
        change = 100 * (share - 1)
        if abs(change) >= 1:
            (gains if change < 0 else costs).append(
                f"{abs(change):.0f} % {quantity.less if change < 0 else quantity.more}"
            )
    mine, theirs = loss(result, baseline), loss(other, baseline)
    if mine is not None and theirs is not None and abs(mine - theirs) >= 0.05:
        text = f"perplexity {signed_percent(mine)} instead of {signed_percent(theirs)}"
        (gains if mine < theirs else costs).append(text)
    if not gains and not costs:
        return "the same within what was measured"
    return "; but ".join(", ".join(part) for part in (gains, costs) if part)


def _ratio(result: TrialResult, other: TrialResult, quantity: Quantity) -> float | None:
    """A quantity of `result` over that of `other`, if both have it.

    By each one's ratio to the base where both were compared with it side by side (see
    `Quantity.over`); else by the two measurements.
    """
    mine, theirs = (quantity.over(r, None) for r in (result, other))
    if mine is not None and theirs is not None:
        return mine.value / theirs.value
    first, second = quantity.value(result), quantity.value(other)
    return None if first is None or second is None else first / second
