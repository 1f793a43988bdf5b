"""The space as a landscape: which strategies are neighbours, and how far apart two are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self, final

from paredown.methods import registry
from paredown.methods.base import Kind
from paredown.spec.domain import PlanDomain, Scalar
from paredown.spec.layers import LayerUnit
from paredown.spec.serial import canonical
from paredown.spec.strategy import Step, Strategy

SWAPPED = 3
"""Distance of two methods of one kind."""
ALONE = 2
"""Distance between a step and no step."""
STAGES = {Kind.PRUNING: 0, Kind.TUNING: 1, Kind.QUANTIZATION: 2}
"""Where in a pipeline a step of each kind stands."""

Genome = dict[Kind, Step]
"""At most one step of each kind: what the strategies of a space consist of."""
Ranks = dict[str, int]
"""Place of a step's value among the values of each parameter that is searched."""
Place = dict[Kind, tuple[str, Ranks]]
"""A strategy in the landscape: method and ranks of its step of each kind."""


@final
@dataclass(frozen=True, kw_only=True)
class PlanAxis:
    """A parameter that is a plan, on one model for one runtime.

    Attributes:
        name: of the parameter.
        domain: what a plan may be.
        units: what the runtime joins, or what stands alone, of the layers that it can assign.
    """

    name: str
    domain: PlanDomain
    units: tuple[LayerUnit, ...]

    def uniform(self, step: Step) -> Scalar:
        """The value of the layers that the step's plan does not name."""
        value: Scalar = step.params[self.domain.follows]
        return value

    def value(self, step: Step, unit: LayerUnit) -> Scalar:
        """What the step's plan gives a unit, whose layers are alike."""
        found: Scalar = step.params[self.name].get(unit.layers[0], self.uniform(step))
        return found

    def changed(self, step: Step, changes: Mapping[LayerUnit, Scalar]) -> Step:
        """The step with other values of some units in its plan."""
        name = self.name
        new = {layer: value for unit, value in changes.items() for layer in unit.layers}
        plan = self.domain.normal({**step.params[name], **new}, self.uniform(step))
        return Step(method=step.method, params={**step.params, name: plan})


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """Look-ups over a space.

    Attributes:
        methods: of every kind, in the space's order.
        templates: strategies by their set of methods, in the space's order.
        values: of each searched parameter, by (method, name): canonical JSON, numbers ascending.
        raw: the same values themselves, by their canonical JSON.
        usual: the first step of each method in the space.
        plans: of each parameter that is a plan, by (method, name).
        places: of strategies that were compared before, by hash.
    """

    methods: dict[Kind, list[str]]
    templates: dict[frozenset[str], list[Strategy]]
    values: dict[tuple[str, str], list[str]]
    raw: dict[tuple[str, str], dict[str, Any]]
    usual: dict[str, Step]
    plans: dict[tuple[str, str], PlanAxis] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, strategies: Iterable[Strategy]) -> Self:
        """The index of listed strategies."""
        methods: dict[Kind, list[str]] = {kind: [] for kind in Kind}
        templates: dict[frozenset[str], list[Strategy]] = {}
        raw: dict[tuple[str, str], dict[str, Any]] = {}
        usual: dict[str, Step] = {}
        for strategy in strategies:
            # A set: the order of the steps follows from their kinds.
            templates.setdefault(frozenset(s.method for s in strategy.steps), []).append(strategy)
            for kind, step in genome(strategy).items():
                if step.method not in usual:
                    usual[step.method] = step
                    methods[kind].append(step.method)
                for name, value in step.params.items():
                    raw.setdefault((step.method, name), {})[canonical(value)] = value
        # A parameter that has one value everywhere cannot be moved.
        raw = {key: seen for key, seen in raw.items() if len(seen) > 1}
        values = {key: _ordered(seen) for key, seen in raw.items()}
        return cls(methods=methods, templates=templates, values=values, raw=raw, usual=usual)

    def ranks(self, step: Step) -> Ranks:
        """Where the step's parameters lie; a value that the space does not have lies first."""
        found: Ranks = {}
        for name, value in step.params.items():
            axis = self.plans.get((step.method, name))
            if axis is not None:
                found |= _plan_ranks(axis, step)
                continue
            known = self.values.get((step.method, name))
            if known is not None:
                text = canonical(value)
                found[name] = known.index(text) if text in known else 0
        return found

    def distance(self, one: Strategy, other: Strategy) -> int:
        """Steps away: one per place in the order of a parameter's values (of each unit's, in a
        plan), `SWAPPED` for another method of the same kind, `ALONE` for a step that the other
        strategy lacks."""
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

    def nearest(self, wanted: Genome, may: Callable[[Strategy], bool]) -> Strategy | None:
        """The listed strategy with the wanted methods, among those that `may` be taken, whose
        parameters are nearest to the wanted ones; the first of equally near ones."""
        if not wanted:
            return None
        among = self.templates.get(frozenset(step.method for step in wanted.values()), [])
        target = Strategy(steps=tuple(wanted.values()))
        return min(
            (strategy for strategy in among if may(strategy)),
            key=lambda strategy: self.distance(strategy, target),
            default=None,
        )

    def searched(self, among: Genome) -> list[tuple[Kind, str]]:
        """The parameters that can be moved, by the kind of their step."""
        return [
            (kind, name)
            for kind, step in among.items()
            for name in step.params
            if (step.method, name) in self.values
        ]

    def planned(self, among: Genome) -> list[tuple[Kind, str]]:
        """The parameters that are plans, by the kind of their step."""
        return [
            (kind, name)
            for kind, step in among.items()
            for name in step.params
            if (step.method, name) in self.plans
        ]

    def beside(self, step: Step, name: str) -> list[str]:
        """The values one place away from the step's, as canonical JSON."""
        known = self.values[step.method, name]
        text = canonical(step.params[name])
        at = known.index(text) if text in known else 0
        return [known[i] for i in (at - 1, at + 1) if 0 <= i < len(known)]

    def with_value(self, step: Step, name: str, text: str) -> Step:
        """The step with the value whose canonical JSON is `text`."""
        value = self.raw[step.method, name][text]
        return Step(method=step.method, params={**step.params, name: value})

    def around(self, start: Genome) -> Iterator[Genome]:
        """Everything one step away, whether the space allows it or not: a parameter's next value,
        one unit of a plan, another method of a kind, a step more, a step less."""
        for kind, name in self.searched(start):
            step = start[kind]
            for text in self.beside(step, name):
                yield {**start, kind: self.with_value(step, name, text)}
        for kind, name in self.planned(start):
            step = start[kind]
            axis = self.plans[step.method, name]
            for unit in axis.units:
                here = axis.value(step, unit)
                for value in {axis.domain.moved(here, up=up) for up in (False, True)} - {here}:
                    yield {**start, kind: axis.changed(step, {unit: value})}
        for kind, methods in self.methods.items():
            for method in methods:
                if kind not in start or start[kind].method != method:
                    yield {**start, kind: self.usual[method]}
        if len(start) > 1:  # a strategy has one step at least
            for kind in start:
                yield {k: step for k, step in start.items() if k is not kind}


def genome(strategy: Strategy) -> Genome:
    """Steps by the kind of their method."""
    return {kind_of(step.method): step for step in strategy.steps}


def strategy_of(wanted: Genome) -> Strategy:
    """The steps as a pipeline, in the order of the stages."""
    return Strategy(steps=tuple(wanted[kind] for kind in sorted(wanted, key=STAGES.__getitem__)))


@lru_cache(maxsize=512)
def _kind(where: str, method: str) -> Kind:
    return registry.load(method).kind


def kind_of(method: str) -> Kind:
    """The kind of a method; loading it each time would import too often."""
    # The class is part of the cache's key: a plug-in may put another under the same name.
    return _kind(registry.names()[method], method)


def _plan_ranks(axis: PlanAxis, step: Step) -> Ranks:
    """Place of every unit's value; one that the domain does not have (a layer left as it is) lies
    behind all others."""
    at = {value: place for place, value in enumerate(axis.domain.values)}
    return {
        f"{axis.name}:{unit.layers[0]}": at.get(axis.value(step, unit), len(at))
        for unit in axis.units
    }


def _ordered(seen: dict[str, Any]) -> list[str]:
    """Numbers by size, anything else in the order of the space."""
    numbers = {text: value for text, value in seen.items() if isinstance(value, int | float)}
    # True and False are numbers to Python, and have no order to us.
    if len(numbers) == len(seen) and not any(isinstance(v, bool) for v in numbers.values()):
        return sorted(numbers, key=lambda text: float(numbers[text]))
    return list(seen)
