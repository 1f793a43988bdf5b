"""The table of a command's settings, derived from its config class.

For each setting it has the options, the environment variable, the place in a file, the default and
the words; the command, the environment, the help and the reference page use it. No setting is
described a second time anywhere.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from paredown.spec.explain import nested
from paredown.spec.option import OTHER, Group, Option, marker
from paredown.spec.reading import parse_json

C = TypeVar("C", bound=BaseModel)
NESTED = "__"
"""Between the names of a path in an environment variable, and in a parameter of a function."""
_JOINED = 24
"""Characters up to which the allowed words stand in the help as `auto|cpu|cuda`."""
_METAVARS: dict[type[Any], str] = {int: "INT", float: "FLOAT", Path: "PATH"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field that a user can set.

    Attributes:
        path: of the field, such as `("evaluate", "tokens")`: its place in a file.
        flags: option names, the long one first; empty for a positional argument.
        env: name of its environment variable.
        panel: heading under which the help shows it.
        field: type, default, bounds and description.
        option: what stands beside the field.
    """

    path: tuple[str, ...]
    flags: tuple[str, ...]
    env: str
    panel: str
    field: FieldInfo
    option: Option

    @property
    def types(self) -> tuple[Any, ...]:
        """The types that the field takes, None left out."""
        return tuple(t for t in _members(self.field.annotation) if t is not type(None))

    @property
    def may_be_none(self) -> bool:
        """Whether `none` is a value."""
        return type(None) in _members(self.field.annotation)

    @property
    def is_switch(self) -> bool:
        """Whether it is said as `--x/--no-x`, without a value."""
        return self.types == (bool,)

    @property
    def words(self) -> tuple[str, ...]:
        """The words that are allowed, where it is one of a few."""
        literal = [t for t in self.types if get_origin(t) is Literal]
        return get_args(literal[0]) if literal else ()

    @property
    def metavar(self) -> str:
        """The word for its value."""
        joined = "|".join(self.words)
        if self.option.metavar or (joined and len(joined) <= _JOINED):
            return self.option.metavar or joined
        return next((_METAVARS[t] for t in self.types if t in _METAVARS), "TEXT")

    @property
    def default(self) -> str:
        """As the user would write it; empty where it must be given."""
        if self.field.is_required():
            return ""
        value = self.field.default
        if isinstance(value, bool):
            return "on" if value else "off"
        if isinstance(value, tuple):
            return ",".join(map(str, value)) or "none"
        return "none" if value is None else str(value)

    @property
    def help(self) -> str:
        """What it means, in one paragraph."""
        text = " ".join((self.field.description or "").split())
        known = "|".join(self.words)
        return text + (f" One of: {', '.join(self.words)}." if len(known) > _JOINED else "")

    def read(self, text: str) -> Any:
        """The value that a text stands for, ready to be validated by the config class.

        `none` is None, numbers are numbers, and what begins with a bracket is JSON, so that lists
        and records fit into a variable. Anything else stays text: its field says what is wrong.
        """
        if self.may_be_none and text.strip().lower() == "none":
            return None
        if text[:1] in {"[", "{"} and any(_is_record(t) for t in self.types):
            return parse_json(text, where=".".join(self.path))
        for number in (int, float) if {int, float}.intersection(self.types) else ():
            try:
                return number(text)
            except ValueError:
                continue
        return text


@dataclass(frozen=True)
class Table(Generic[C]):
    """All settings of one config class.

    Attributes:
        kind: the class.
        env_prefix: begins the names of its environment variables.
        settings: in the order of the fields, nested ones in their places.
    """

    kind: type[C]
    env_prefix: str
    settings: tuple[Setting, ...]

    @staticmethod
    def of(
        kind: type[C], env_prefix: str, *, argument: str | None = None, panel: str = OTHER
    ) -> Table[C]:
        """The table of a class.

        Args:
            kind: the class.
            env_prefix: begins the names of its environment variables.
            argument: a field that is said without an option's name.
            panel: heading of the fields that name none and are in no group.

        Raises:
            TypeError: two fields are given the same option; a mistake of the classes.
        """
        walked = _walk(kind, env_prefix, (), Group("", panel))
        found = tuple(replace(s, flags=()) if s.path == (argument,) else s for s in walked)
        flags = [flag for setting in found for name in setting.flags for flag in name.split("/")]
        if twice := {flag for flag in flags if flags.count(flag) > 1}:
            raise TypeError(f"{kind.__name__}: {sorted(twice)} would set two fields")
        return Table(kind, env_prefix, found)


def _walk(
    kind: type[BaseModel], env_prefix: str, above: tuple[str, ...], group: Group
) -> Iterator[Setting]:
    for name, field in kind.model_fields.items():
        path, inner = (*above, name), nested(field.annotation)
        # A record that may be None (the grid) is one value: it cannot be set half.
        is_group = field.annotation is inner
        if inner is not None and is_group:
            around = marker(field.metadata, Group) or Group(name, name.capitalize())
            yield from _walk(inner, env_prefix, path, around)
            continue
        option = marker(field.metadata, Option) or Option()
        yield Setting(
            path=path,
            flags=_flags(name, field, option, group),
            env=env_prefix + NESTED.join(path).upper(),
            panel=option.panel or group.panel,
            field=field,
            option=option,
        )


def _flags(name: str, field: FieldInfo, option: Option, group: Group) -> tuple[str, ...]:
    if option.names:
        return option.names
    prefix = f"{group.prefix}-" if group.prefix else ""
    said = f"{prefix}{name}".replace("_", "-")
    return (f"--{said}/--no-{said}" if field.annotation is bool else f"--{said}",)


def put(into: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value in nested dictionaries."""
    for name in path[:-1]:
        into = into.setdefault(name, {})
    into[path[-1]] = value


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types that a field's annotation unites, annotations of annotations taken off."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in {Union, types.UnionType}:
        return tuple(member for part in get_args(annotation) for member in _members(part))
    return (annotation,)


def _is_record(kind: Any) -> bool:
    return get_origin(kind) in {tuple, list} or nested(kind) is not None
