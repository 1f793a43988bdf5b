"""The space that cannot be listed: every combination of what is possible, and every plan.

Five values for each of 200 units are 5^200 plans. So strategies are drawn, or found one step away
from others, and each is checked when it is met; a check takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any, ClassVar, Self, final

from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.runtimes import registry as runtimes
from paredown.search.enumerated import Enumerated, Template
from paredown.search.index import Genome, Index, PlanAxis, strategy_of
from paredown.search.space import Rules, Space
from paredown.spec.domain import PlanDomain, plan_domains
from paredown.spec.layers import LayerUnit
from paredown.spec.model import ModelSpec
from paredown.spec.serial import canonical
from paredown.spec.strategy import Step, Strategy
from paredown.spec.target import Target

DRAWS = 1000
"""Draws of a sample that the checks may refuse before one from the list is taken."""
PLANNED = 0.5
"""Share of the steps drawn that get a plan, where they can have one."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Product(Space):
    """The methods, values and sequences of an enumerated space, combined at will, with plans.

    What no strategy of the list has (a group size that divides no width, say) is not in here
    either. Parameters that the list does not vary keep the value they have there.

    Attributes:
        core: what is listed: all plans empty.
        rules: decide about everything else.
        refused, baseline_bytes: see `Space`.
    """

    is_listed: ClassVar[bool] = False
    core: Enumerated
    rules: Rules
    refused: dict[str, str]
    baseline_bytes: int

    @classmethod
    def build(
        cls,
        spec: ModelSpec,
        target: Target,
        *,
        methods: tuple[str, ...] | None = None,
        max_steps: int = 2,
        baseline_bytes: int | None = None,
    ) -> Self:
        """Arguments and errors as of `Enumerated.build`."""
        rules = Rules(spec, target, baseline_bytes=baseline_bytes)
        core = Enumerated.under(rules, methods=methods, max_steps=max_steps)
        return cls._around(core, rules)

    @classmethod
    def _around(cls, core: Enumerated, rules: Rules) -> Self:
        return cls(core=core, rules=rules, refused=core.refused, baseline_bytes=core.baseline_bytes)

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        return self.core.strategies

    @cached_property
    def index(self) -> Index:
        """As of the list, with the plans."""
        plans = {}
        for method, step in self.core.index.usual.items():
            for name, domain in plan_domains(registry.load(method).params_type).items():
                axis = PlanAxis(name=name, domain=domain, units=self._units(domain))
                axis = self._possible(axis, step)
                if len(axis.domain.values) > 1:  # else every plan is the uniform step
                    plans[method, name] = axis
        # Without the places remembered so far, which know nothing of plans.
        return replace(self.core.index, plans=plans, places={})

    def _units(self, domain: PlanDomain) -> tuple[LayerUnit, ...]:
        """As the target's runtime joins the layers that a plan can assign: joined ones with
        different values would be refused, however often they were drawn."""
        spec, layers = self.rules.spec, set(domain.layers_of(self.rules.spec))
        joined = runtimes.load(self.rules.target.runtime).joins(spec)
        parts = (tuple(name for name in unit.layers if name in layers) for unit in joined)
        return tuple(LayerUnit(part) for part in parts if part)

    def _possible(self, axis: PlanAxis, step: Step) -> PlanAxis:
        """With those values alone that the model can have in every unit: a runtime that holds 4
        and 8 bits would refuse nearly every plan drawn from others as well."""
        possible = []
        for value in axis.domain.values:
            alone = Strategy(steps=(axis.changed(step, dict.fromkeys(axis.units, value)),))
            try:
                self.rules.predicted_bytes(alone)
            except ConfigError:
                continue
            possible.append(value)
        return replace(axis, domain=replace(axis.domain, values=tuple(possible)))

    @cached_property
    def templates(self) -> tuple[Template, ...]:
        """The sequences of methods there are, in the list's order."""
        return tuple(dict.fromkeys(tuple(step.method for step in s.steps) for s in self.strategies))

    def refusal(self, strategy: Strategy) -> str | None:
        if strategy in self.core:
            return None
        if tuple(step.method for step in strategy.steps) not in self.templates:
            return "these methods, in this order, are not searched here"
        for step in strategy.steps:
            for name, value in step.params.items():
                if (outside := self._outside(step, name, value)) is not None:
                    return f"{step.method}: {name}{outside}"
        return self.rules.refusal(strategy)

    def _outside(self, step: Step, name: str, value: Any) -> str | None:
        """What is wrong with a value that no strategy of the space has."""
        axis = self.index.plans.get((step.method, name))
        if axis is not None:
            if unknown := value.keys() - {name for unit in axis.units for name in unit.layers}:
                return f": {min(unknown)!r} is no layer of the model that a plan can assign"
            wrong = set(value.values()) - set(axis.domain.values)
            known = ", ".join(map(str, axis.domain.values))
            return f": {min(wrong)} is not among {known}" if wrong else None
        values = self.index.values.get((step.method, name))
        if values is not None:
            is_known = canonical(value) in values
            return None if is_known else f" = {value!r} is not among {', '.join(values)}"
        usual = self.index.usual[step.method].params.get(name)
        return None if value == usual else f" = {value!r} is not searched, only {usual!r}"

    def predicted_bytes(self, strategy: Strategy) -> int:
        return self.rules.predicted_bytes(strategy)

    def sample(self, rng: Random) -> Strategy:
        """A sequence of methods, each equally likely, then each value; half of the steps that can
        have a plan get one, drawn by its domain."""
        for _ in range(DRAWS):
            steps = tuple(self._draw(method, rng) for method in rng.choice(self.templates))
            drawn = Strategy(steps=steps)
            if drawn in self:
                return drawn
        return self.core.sample(rng)

    def _draw(self, method: str, rng: Random) -> Step:
        index = self.index
        step = index.usual[method]
        for name in step.params:
            if (values := index.values.get((method, name))) is not None:
                step = index.with_value(step, name, rng.choice(values))
        for name in step.params:
            axis = index.plans.get((method, name))
            if axis is not None and rng.random() < PLANNED:  # after the value that it follows
                plan = axis.domain.sample(axis.units, axis.uniform(step), rng)
                step = Step(method=method, params={**step.params, name: plan})
        return step

    def nearest(self, wanted: Genome, may: Callable[[Strategy], bool]) -> Strategy | None:
        """The wanted one itself; where it may not be taken, the nearest that is listed."""
        if not wanted:
            return None
        exact = strategy_of(wanted)
        return exact if may(exact) else self.core.nearest(wanted, may)

    def without(self, methods: Collection[str]) -> Self:
        return self._around(self.core.without(methods), self.rules)
