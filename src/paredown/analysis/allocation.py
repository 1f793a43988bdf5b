"""One option for each of many units: the least cost within a budget of bytes. No torch.

The multiple-choice knapsack problem, in two ways. `curve` follows the Lagrangian: as a byte gets
dearer, units step down their convex hulls one by one, and every stop on that way is the best there
is at its size. Between the stops, and for one stated budget, `best_within` asks an integer solver.

Source: Kellerer, Pferschy, Pisinger 2004, "Knapsack Problems", chapter 11; the relaxation by hulls
is theirs, the exact solver is HiGHS (Huangfu & Hall 2018) through scipy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np

from paredown.errors import ConfigError

_GAP = 1e-4
"""Relative: how far from the best a plan may be that the integer solver takes. Forecasts are wrong
by a hundred times that."""
_NODES = 2000
"""Branches that the integer solver looks into: a number, not seconds, so that the same question
has the same answer on a busy machine."""


@dataclass(frozen=True, slots=True)
class Priced:
    """An option of a unit: what it costs in quality, and how many bytes it takes."""

    cost: float
    nbytes: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """One option for each unit.

    Attributes:
        chosen: index of the option taken, by unit.
        cost: sum of their costs.
        nbytes: sum of their bytes.
    """

    chosen: tuple[int, ...]
    cost: float
    nbytes: int


def interval(units: Sequence[Sequence[Priced]]) -> tuple[int, int]:
    """Fewest and most bytes that one option for each unit can take."""
    least = sum(min(option.nbytes for option in options) for options in units)
    return least, sum(max(option.nbytes for option in options) for options in units)


def curve(units: Sequence[Sequence[Priced]]) -> list[Allocation]:
    """All allocations that are best for some price of a byte, smallest first.

    Args:
        units: the options of each unit, at least one; costs finite.
    """
    return [_allocation(units, chosen) for chosen, _ in _stops(units)]


def last_within(units: Sequence[Sequence[Priced]], budget: int) -> Allocation | None:
    """The last stop of `curve` within `budget` bytes; None where its first one takes more."""
    last = None
    for chosen, nbytes in _stops(units):
        if nbytes > budget:  # every stop takes more than the one before
            break
        last = chosen
    return None if last is None else _allocation(units, last)


def _stops(units: Sequence[Sequence[Priced]]) -> Iterator[tuple[tuple[int, ...], int]]:
    """The allocations of `curve` as indices by unit, and their bytes."""
    hulls = [hull(options) for options in units]
    chosen = [found[0] for found in hulls]
    nbytes = sum(options[i].nbytes for options, i in zip(units, chosen, strict=True))
    steps = []
    for unit, places in enumerate(hulls):
        gain = math.inf
        for place, (one, two) in enumerate(pairwise(places)):
            small, large = units[unit][one], units[unit][two]
            # Within a hull the gains fall; rounding must not bring its steps out of their order.
            gain = min(gain, (small.cost - large.cost) / (large.nbytes - small.nbytes))
            steps.append((-gain, unit, place, two))
    yield tuple(chosen), nbytes
    for _, unit, _, option in sorted(steps):
        nbytes += units[unit][option].nbytes - units[unit][chosen[unit]].nbytes
        chosen[unit] = option
        yield tuple(chosen), nbytes


def hull(options: Sequence[Priced]) -> list[int]:
    """Indices of the lower convex hull of an option list, from fewest bytes to least cost."""
    order = sorted(range(len(options)), key=lambda i: (options[i].nbytes, options[i].cost, i))
    found: list[int] = []
    for i in order:
        if found and options[i].cost >= options[found[-1]].cost:
            continue  # as large or larger, and no better
        while len(found) > 1 and _is_above(options, found[-2], found[-1], i):
            found.pop()
        found.append(i)
    return found


def _is_above(options: Sequence[Priced], first: int, middle: int, last: int) -> bool:
    """Whether `middle` lies on or above the line from `first` to `last`."""
    a, b, c = options[first], options[middle], options[last]
    return (b.cost - a.cost) * (c.nbytes - a.nbytes) >= (c.cost - a.cost) * (b.nbytes - a.nbytes)


def _allocation(units: Sequence[Sequence[Priced]], chosen: Sequence[int]) -> Allocation:
    taken = [options[i] for options, i in zip(units, chosen, strict=True)]
    # Summed in the order of the units, exactly: equal choices have equal costs.
    return Allocation(tuple(chosen), math.fsum(t.cost for t in taken), sum(t.nbytes for t in taken))


def best_within(units: Sequence[Sequence[Priced]], budget: int) -> Allocation:
    """The least cost within `budget` bytes, to a relative gap of 1e-4.

    Deterministic. Among plans of equal cost the larger is not sought.

    Raises:
        ConfigError: even the smallest options take more.
    """
    least, most = interval(units)
    if budget < least:
        raise ConfigError(f"{budget} bytes: the smallest plan takes {least}, the largest {most}")
    start = last_within(units, budget)
    if start is None:  # the hull leaves out an option that is smallest but as dear as a larger one
        smallest = [min(range(len(o)), key=lambda i: (o[i].nbytes, o[i].cost, i)) for o in units]
        start = _allocation(units, smallest)
    found = _integer(units, budget)
    return start if found is None or found.cost > start.cost else found


def _integer(units: Sequence[Sequence[Priced]], budget: int) -> Allocation | None:
    """What HiGHS finds; None where it finds nothing that keeps the budget to the byte."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    sizes = np.array([option.nbytes for options in units for option in options])
    costs = np.array([option.cost for options in units for option in options])
    owner = np.repeat(np.arange(len(units)), [len(options) for options in units])
    # In whole steps, as few digits as possible: its tolerances are absolute.
    step = reduce(math.gcd, map(int, sizes - min(sizes)), 0) or 1
    least = np.array([min(option.nbytes for option in options) for options in units])
    extra = (sizes - least[owner]) / step
    room = math.floor((budget - int(least.sum())) / step)
    one_each = csr_array((np.ones(len(owner)), (owner, np.arange(len(owner)))))
    scale = float(np.abs(costs).max()) or 1.0
    answer = milp(
        costs / scale,
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(extra[None], -np.inf, room),
        ],
        integrality=np.ones(len(owner)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": _GAP, "node_limit": _NODES},
    )
    if answer.x is None:
        return None
    first = np.concatenate([[0], np.cumsum([len(options) for options in units])])
    chosen = [int(np.argmax(answer.x[first[u] : first[u + 1]])) for u in range(len(units))]
    found = _allocation(units, chosen)
    return found if found.nbytes <= budget else None
