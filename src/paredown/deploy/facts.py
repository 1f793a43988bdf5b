"""Facts of readiness: each passed, failed or not applicable, with what was seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

from paredown.deploy.client import Client
from paredown.deploy.proof import Proof
from paredown.deploy.questions import Questioner
from paredown.errors import ServerError

Status = Literal["passed", "failed", "not applicable"]


class Fact(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    status: Status
    seen: str
    """In words, with the numbers."""
    value: float | None = None
    """The number that decided, where there is one."""
    unit: str | None = None
    """Of the value."""
    at_most: float | None = None
    """What the value was not to exceed."""
    seconds: float = 0.0
    """That the look took."""


@dataclass(kw_only=True)
class Subject:
    """What is checked, and what is known of it beforehand.

    Attributes:
        client: of the server.
        proof: of the package that it is said to serve; None: nothing is compared.
        context, slots: of the server; None: asked of it, or unknown.
        questioner: set when the model's name is known.
        deadline: of the whole check, on the monotonic clock.
    """

    client: Client
    proof: Proof | None = None
    name: str | None = None
    context: int | None = None
    slots: int | None = None
    deadline: float = float("inf")
    questioner: Questioner | None = field(default=None, repr=False)

    @property
    def ask(self) -> Questioner:
        """Asks the model.

        Raises:
            ServerError: no model is known yet, as none was listed.
        """
        if self.questioner is None:
            raise ServerError("no model is listed, so none can be asked")
        return self.questioner


Look = Callable[[Subject], Fact]


def passed(name: str, seen: str, **more: object) -> Fact:
    """A fact that is as it should be."""
    return Fact.model_validate({"name": name, "status": "passed", "seen": seen, **more})


def failed(name: str, seen: str, **more: object) -> Fact:
    """A fact that is not."""
    return Fact.model_validate({"name": name, "status": "failed", "seen": seen, **more})


def not_applicable(name: str, why: str) -> Fact:
    """A fact that cannot be looked at here."""
    return Fact(name=name, status="not applicable", seen=why)


def within(name: str, seen: str, value: float, *, at_most: float, unit: str) -> Fact:
    """A number that is not to exceed a bound."""
    make = passed if value <= at_most else failed
    return make(name, seen, value=value, at_most=at_most, unit=unit)


def look(
    looks: Sequence[tuple[str, Look]],
    subject: Subject,
    *,
    tell: Callable[[Fact], None] = lambda fact: None,
) -> list[Fact]:
    """Look at everything in turn; what a server does not answer is a failed fact.

    Args:
        looks: name and function of each.
        tell: told of every fact as it is known.
    """
    found = []
    for name, function in looks:
        start = time.monotonic()
        if start > subject.deadline:
            fact = failed(name, "no time was left for it; give more with --timeout")
        else:
            try:
                fact = function(subject)
            except ServerError as error:
                fact = failed(name, str(error))
        fact = fact.model_copy(update={"seconds": round(time.monotonic() - start, 3)})
        found.append(fact)
        tell(fact)
    return found
