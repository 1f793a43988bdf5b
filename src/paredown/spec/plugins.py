"""Plug-ins by name, without importing them: a table of built-in ones, and entry points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from paredown.errors import ConfigError


@cache
def installed(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group; read once, because it searches every installed package."""
    return tuple(entry_points(group=group))


def merged(kind: str, builtin: Mapping[str, str], more: Iterable[EntryPoint]) -> dict[str, str]:
    """Name -> "module:Class" of everything known. A plug-in may not shadow another.

    Args:
        kind: what they are, for people: `method`, `runtime`.

    Raises:
        ConfigError: two go by one name; names both.
    """
    found = dict(builtin)
    for entry in more:
        if entry.name in found:
            raise ConfigError(
                f"{kind} {entry.name!r} is provided by both {found[entry.name]} and "
                f"{entry.value}; uninstall one of them"
            )
        found[entry.name] = entry.value
    return found


def create(place: str) -> Any:
    """An instance of the class at "module:Class", which is imported now."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)()
