"""Which candidates are worth a benchmark: one costs more than everything else that is measured."""

from __future__ import annotations

from collections.abc import Sequence

from paredown.spec.result import TrialResult

_COSTS = ("kl", "size", "decode_latency", "peak_memory")
"""Cheap measures, lower is better: what a front trades off, quality by its paired measure."""


def why_not_scored(
    result: TrialResult, earlier: Sequence[TrialResult], broken: Sequence[str] = ()
) -> str | None:
    """Why a candidate gets no benchmark: a limit missed, or an earlier result that beats it.

    None if it survives.

    Args:
        broken: the limits that it breaks whatever its scores will be, in words.
    """
    if broken:
        return f"it misses a limit ({'; '.join(broken)})"
    rival = next((r for r in earlier if r.strategy is not None and beats(r, result)), None)
    if rival is None:
        return None
    return f"episode {rival.episode}, {rival.label}, is no worse in {', '.join(_COSTS)}"


def beats(one: TrialResult, other: TrialResult) -> bool:
    """No worse in any of the costs and better in one; False where one was not measured."""
    pairs = [(one.value(name), other.value(name)) for name in _COSTS]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    complete = len(known) == len(_COSTS)
    return complete and all(a <= b for a, b in known) and any(a < b for a, b in known)
