"""Which candidates are worth a benchmark: one costs more than everything else that is measured."""

from __future__ import annotations

from collections.abc import Sequence

from paredown.analysis.pareto import pareto_mask
from paredown.judge.quantities import finished_baseline, quantity
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective

_COSTS: tuple[Objective, ...] = ("size", "latency", "memory")
"""Besides the divergence from the base, which is what is cheaply known of quality: the costs that a
front trades off, each as the judge compares it."""


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
    baseline = finished_baseline(earlier)
    rival = next(
        (r for r in earlier if r.strategy is not None and beats(r, result, baseline)), None
    )
    if rival is None:
        return None
    named = ", ".join(("kl", *(quantity(cost, baseline).measurement for cost in _COSTS)))
    return f"episode {rival.episode}, {rival.label}, is no worse in {named}"


def beats(one: TrialResult, other: TrialResult, baseline: TrialResult | None) -> bool:
    """No worse in any of the costs and better in one, as a front tells it; False where a cost is
    not known.

    Speed is that of the comparison with the base in turns: two latencies by themselves may have
    been taken hours apart, or on two machines. What differs by less than a repeat does is equal.
    """
    mine, theirs = _costs(one, baseline), _costs(other, baseline)
    if mine is None or theirs is None:
        return False
    resolution = [0.0, *(quantity(cost, baseline).resolution for cost in _COSTS)]
    return not pareto_mask([mine, theirs], resolution=resolution)[1]


def _costs(result: TrialResult, baseline: TrialResult | None) -> list[float] | None:
    """The divergence and the costs; None where one is not known."""
    rows = [quantity(cost, baseline) for cost in _COSTS]
    found = [result.value("kl"), *(row.cost(result, baseline) for row in rows)]
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) else None
