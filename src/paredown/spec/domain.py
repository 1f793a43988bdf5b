"""Search domains, written as annotations beside the validity of a parameter.

    bits: Annotated[int, Field(ge=2, le=8), Choice(4, 8, 3)] = 4

The first value should be the default; the order is the order in which a search tries them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from paredown.spec.layers import LayerUnit
    from paredown.spec.model import ModelSpec

Scalar = int | float | str | bool | None


@dataclass(frozen=True, init=False)
class Choice:
    """A finite set of values worth trying, most promising first."""

    values: tuple[Scalar, ...]

    def __init__(self, *values: Scalar) -> None:
        object.__setattr__(self, "values", values)


@dataclass(frozen=True, kw_only=True)
class PlanDomain:
    """What a plan may be: of every unit of the model one of a few values.

    With 200 units and 6 values these are 6^200 plans: they are sampled and changed unit by unit,
    never listed. A layer that a plan does not name has the value of another parameter, so that an
    empty plan is the uniform step.

    Attributes:
        values: of one unit, ascending: a step away is one place.
        follows: the parameter whose value holds for the layers that are not named.
        layers_of: names of the layers of a model that a plan can assign.
    """

    values: tuple[Scalar, ...]
    follows: str
    layers_of: Callable[[ModelSpec], Sequence[str]]

    def sample(self, units: Sequence[LayerUnit], uniform: Scalar, rng: Random) -> dict[str, Scalar]:
        """A plan over `units`, where `uniform` is the value of layers that are not named.

        First the share of each value is drawn (evenly from all mixtures, the Dirichlet
        distribution with parameter 1), then each unit's value. Units drawn evenly would give
        mixtures of one kind only: all values alike, and so all plans of one size.
        """
        weights = [rng.expovariate(1.0) for _ in self.values]
        drawn = rng.choices(self.values, weights, k=len(units))
        pairs = zip(units, drawn, strict=True)
        return self.normal({name: v for unit, v in pairs for name in unit.layers}, uniform)

    def moved(self, value: Scalar, *, up: bool) -> Scalar:
        """The value one place up or down; at the end, or outside the domain, the value itself."""
        if value not in self.values:
            return value
        place = self.values.index(value) + (1 if up else -1)
        return self.values[place] if 0 <= place < len(self.values) else value

    @staticmethod
    def normal(plan: Mapping[str, Scalar], uniform: Scalar) -> dict[str, Scalar]:
        """The plan without what it says in vain, so that equal assignments are equal plans."""
        return {name: value for name, value in plan.items() if value != uniform}


def plan_domains(params_type: type[BaseModel]) -> dict[str, PlanDomain]:
    """Fields of a parameter class that are plans, in the order of declaration."""
    return {
        name: marker
        for name, field in params_type.model_fields.items()
        for marker in field.metadata
        if isinstance(marker, PlanDomain)
    }


def domains(params_type: type[BaseModel]) -> dict[str, Choice]:
    """Searchable fields of a parameter class, in the order of declaration."""
    return {
        name: marker
        for name, field in params_type.model_fields.items()
        for marker in field.metadata
        if isinstance(marker, Choice)
    }


def describe(domain: Any) -> str:
    """How help texts show a domain."""
    return ", ".join(str(v) for v in domain.values) if isinstance(domain, Choice) else ""
