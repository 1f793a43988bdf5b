"""Search domains, written as annotations beside the validity of a parameter.

    bits: Annotated[int, Field(ge=2, le=8), Choice(4, 8, 3)] = 4

The first value should be the default; the order is the order in which a search tries them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

Scalar = int | float | str | bool | None


@dataclass(frozen=True, init=False)
class Choice:
    """A finite set of values worth trying, most promising first."""

    values: tuple[Scalar, ...]

    def __init__(self, *values: Scalar) -> None:
        object.__setattr__(self, "values", values)


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
