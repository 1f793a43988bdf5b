"""From settings of any origin to a checked config, or one line that says what is wrong."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from reprlib import Repr
from typing import Any, TypeVar, cast, get_args, get_type_hints

from pydantic import BaseModel, ValidationError, validate_call
from pydantic_core import ErrorDetails

from paredown.errors import ConfigError, did_you_mean

C = TypeVar("C", bound=BaseModel)
F = TypeVar("F", bound=Callable[..., Any])
_LONGEST = 80
"""Characters of a wrong value that are repeated in a message."""


def checked(kind: type[C], settings: Mapping[str, Any]) -> C:
    """A config of this class.

    Raises:
        ConfigError: an unknown field, or values outside their range, all in one line.
    """
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(explain(error, kind)) from None


def checked_call(function: F) -> F:
    """`function`, which refuses arguments of a wrong type by name, before it does anything.

    Nothing is converted: `resume="no"` is refused, not taken for true or for false.

    Raises:
        ConfigError: (when called) an argument is not of the type that its annotation says.
    """
    signature = inspect.signature(function)

    @lru_cache(maxsize=1)  # at the first call: the annotations need all of the module
    def validator() -> Callable[..., dict[str, Any]]:
        hints = get_type_hints(function, include_extras=True)
        # The arguments alone are validated, on a stand-in: what the function itself raises, a
        # ValidationError of a bug included, must not be taken for a wrong argument.
        names = [p.replace(annotation=hints[n]) for n, p in signature.parameters.items()]

        def stand_in(**validated: Any) -> dict[str, Any]:
            """Has the signature of the function, and does nothing."""
            return validated

        stand_in.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]
        stand_in.__annotations__ = {n: hints[n] for n in signature.parameters}
        return validate_call(config={"arbitrary_types_allowed": True, "strict": True})(stand_in)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        said = signature.bind(*args, **kwargs)  # TypeError, as for any function
        given = dict(zip(signature.parameters, said.args, strict=False)) | said.kwargs
        try:
            validated = validator()(**given)
        except ValidationError as error:
            raise ConfigError(_of_arguments(error)) from None
        return function(**validated)

    return cast("F", call)


def _of_arguments(error: ValidationError) -> str:
    """One clause per argument; what a union would have taken is joined by `or`."""
    reasons: dict[str, list[str]] = {}
    for item in error.errors():
        clause = f"{item['loc'][0]} = {short(item['input'])}"
        reasons.setdefault(clause, []).append(item["msg"])
    return "; ".join(f"{clause}: {' or '.join(dict.fromkeys(r))}" for clause, r in reasons.items())


def explain(error: ValidationError, kind: type[BaseModel] | None = None) -> str:
    """What is wrong with the settings, one clause per field, nearest names included."""
    return "; ".join(dict.fromkeys(_clause(item, kind) for item in error.errors()))


def short(value: Any) -> str:
    """`repr`, cut: a value may be of any length and depth, and messages are for people."""
    cutter = Repr()
    cutter.maxstring = cutter.maxother = _LONGEST
    cutter.maxlist = cutter.maxtuple = cutter.maxdict = 6
    cutter.maxlevel = 3
    return cutter.repr(value)


def _clause(item: ErrorDetails, kind: type[BaseModel] | None) -> str:
    place = [str(part) for part in item["loc"]]
    field = ".".join(part if len(part) <= _LONGEST else short(part) for part in place)
    message = item["msg"].removeprefix("Value error, ")
    match item["type"]:
        case "extra_forbidden":
            known = _fields_at(kind, place[:-1])
            return f"no setting {field!r}; {did_you_mean(place[-1][:_LONGEST], known)}"
        case "missing":
            return f"{field} is missing"
        case _ if place and place[-1] == "url":  # the value may hold a key
            return f"{field}: {message}"
        case "literal_error":
            return f"{field} = {short(item['input'])}: {message}{_nearest(item)}"
        case _:
            if not field:  # a check of the whole config speaks for itself
                return message
            # A group is not repeated: it is long, and may hold an address with a key.
            value = "" if isinstance(item["input"], dict) else f" = {short(item['input'])}"
            return f"{field}{value}: {message}"


def _nearest(item: ErrorDetails) -> str:
    """`; did you mean 'x'?`, where one of the allowed words is near."""
    allowed = re.findall(r"'([^']*)'", str(item.get("ctx", {}).get("expected", "")))
    near = difflib.get_close_matches(str(item["input"])[:_LONGEST], allowed, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _fields_at(kind: type[BaseModel] | None, place: Sequence[str]) -> list[str]:
    """Names of the fields of the config at this place, such as those of `evaluate`."""
    for name in place:
        inner = None if kind is None else kind.model_fields.get(name)
        kind = None if inner is None else nested(inner.annotation)
    return list(kind.model_fields) if kind else []


def nested(annotation: object) -> type[BaseModel] | None:
    """The config class that a field holds, also one that may be None; else None."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
