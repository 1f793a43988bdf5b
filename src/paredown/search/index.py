"""The space as a landscape: which strategies are neighbours, and how far apart two are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import final

from paredown.methods import registry
from paredown.methods.base import Kind
from paredown.search.space import Space
from paredown.spec.serial import canonical
from paredown.spec.strategy import Step, Strategy

SWAPPED = 3
"""Distance of two methods of one kind."""
ALONE = 2
"""Distance between a step and no step."""

Genome = dict[Kind, Step]
"""At most one step of each kind: what the strategies of a space consist of."""
Ranks = dict[str, int]
"""Place of a step's value among the values of each parameter that is searched."""
Place = dict[Kind, tuple[str, Ranks]]
"""A strategy in the landscape: method and ranks of its step of each kind."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """Look-ups over a space.

    Attributes:
        methods: of every kind, in the space's order.
        templates: strategies by their set of methods, in the space's order.
        values: of each searched parameter, by (method, name): canonical JSON, numbers ascending.
        places: of strategies that were compared before, by hash.
    """

    methods: dict[Kind, list[str]]
    templates: dict[frozenset[str], list[Strategy]]
    values: dict[tuple[str, str], list[str]]
    places: dict[str, Place] = field(default_factory=dict, repr=False)

    def ranks(self, step: Step) -> Ranks:
        """Where the step's parameters lie; a value that the space does not have lies first."""
        found: Ranks = {}
        for name, value in step.params.items():
            known = self.values.get((step.method, name))
            if known is not None:
                text = canonical(value)
                found[name] = known.index(text) if text in known else 0
        return found

    def distance(self, one: Strategy, other: Strategy) -> int:
        """Steps away: one per place in the order of a parameter's values, `SWAPPED` for another
        method of the same kind, `ALONE` for a step that the other strategy lacks."""
        first, second = self._place(one), self._place(other)
        total = 0
        for kind in first.keys() | second.keys():
            if kind not in first or kind not in second:
                total += ALONE
                continue
            (method, here), (other_method, there) = first[kind], second[kind]
            if method != other_method:
                total += SWAPPED
            else:
                total += sum(abs(rank - there.get(name, 0)) for name, rank in here.items())
        return total

    def _place(self, strategy: Strategy) -> Place:
        """The method and the ranks of each step; remembered."""
        known = self.places.get(strategy.hash)
        if known is None:
            steps = genome(strategy).items()
            known = {kind: (step.method, self.ranks(step)) for kind, step in steps}
            self.places[strategy.hash] = known
        return known

    def nearest(self, wanted: Genome, allowed: Iterable[str]) -> Strategy | None:
        """The strategy with the wanted methods, among the hashes `allowed`, whose parameters are
        nearest to the wanted ones; the first of equally near ones."""
        if not wanted:
            return None
        among = self.templates.get(frozenset(step.method for step in wanted.values()), [])
        open_to = allowed if isinstance(allowed, set | frozenset | dict) else set(allowed)
        target = Strategy(steps=tuple(wanted.values()))
        return min(
            (strategy for strategy in among if strategy.hash in open_to),
            key=lambda strategy: self.distance(strategy, target),
            default=None,
        )


@lru_cache(maxsize=4)
def index_of(space: Space) -> Index:
    """The index of a space; remembered."""
    methods: dict[Kind, list[str]] = {kind: [] for kind in Kind}
    templates: dict[frozenset[str], list[Strategy]] = {}
    raw: dict[tuple[str, str], dict[str, object]] = {}
    for strategy in space.strategies:
        templates.setdefault(frozenset(s.method for s in strategy.steps), []).append(strategy)
        for kind, step in genome(strategy).items():
            if step.method not in methods[kind]:
                methods[kind].append(step.method)
            for name, value in step.params.items():
                raw.setdefault((step.method, name), {})[canonical(value)] = value
    values = {key: _ordered(seen) for key, seen in raw.items() if len(seen) > 1}
    return Index(methods=methods, templates=templates, values=values)


def genome(strategy: Strategy) -> Genome:
    """Steps by the kind of their method."""
    return {kind_of(step.method): step for step in strategy.steps}


@lru_cache(maxsize=512)
def _kind(where: str, method: str) -> Kind:
    return registry.load(method).kind


def kind_of(method: str) -> Kind:
    """The kind of a method; loading it each time would import too often."""
    return _kind(registry.names()[method], method)


def _ordered(seen: dict[str, object]) -> list[str]:
    """Numbers by size, anything else in the order of the space."""
    numbers = {text: value for text, value in seen.items() if isinstance(value, int | float)}
    if len(numbers) == len(seen) and not any(isinstance(v, bool) for v in numbers.values()):
        return sorted(numbers, key=lambda text: float(numbers[text]))
    return list(seen)
