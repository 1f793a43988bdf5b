"""Settings of a command: its options, then the environment, then a file, then the defaults."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from paredown.cli.table import Table, put
from paredown.errors import ConfigError
from paredown.spec.explain import explain
from paredown.spec.reading import read_json, read_yaml

C = TypeVar("C", bound=BaseModel)


def read_settings(table: Table[C], options: Mapping[str, Any], file: Path | None) -> C:
    """Merge the origins, field by field, into a checked config.

    Args:
        table: of the command.
        options: what the command line says, nested as in a file.
        file: YAML or JSON.

    Raises:
        ConfigError: a setting is missing, unknown, or outside its range.
    """
    merged: dict[str, Any] = {} if file is None else _read_file(file)
    merged = _over(_over(merged, from_environment(table, os.environ)), options)
    try:
        return table.kind.model_validate(merged)
    except ValidationError as error:
        for item in error.errors():
            if item["type"] == "missing" and len(item["loc"]) == 1:
                raise _missing(table, str(item["loc"][0])) from None
        raise ConfigError(explain(error, table.kind)) from None


def from_environment(table: Table[Any], variables: Mapping[str, str]) -> dict[str, Any]:
    """What variables such as PAREDOWN_RUN_EVALUATE__TOKENS say, nested as in a file.

    Raises:
        ConfigError: a variable with the prefix of the command that is none of its settings: it was
            meant for it, and would be passed over.
    """
    known = {setting.env: setting for setting in table.settings}
    found: dict[str, Any] = {}
    for name in sorted(variables):
        if name in known:
            put(found, known[name].path, known[name].read(variables[name]))
        elif name.startswith(table.env_prefix):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; see the command's --help"
            raise ConfigError(f"environment: {name} sets nothing{hint}")
    return found


def _over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, group by group."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        both = isinstance(value, Mapping) and isinstance(under, dict)
        merged[name] = _over(under, value) if both and under is not None else value
    return merged


def _read_file(file: Path) -> dict[str, Any]:
    read = read_json if file.suffix == ".json" else read_yaml
    try:
        data = read(file)
    except ConfigError as error:
        raise ConfigError(f"--config {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"--config {file}: must hold settings by name, e.g. 'episodes: 20'")
    for group in (data, *(v for v in data.values() if isinstance(v, dict))):
        for name in group:
            if not isinstance(name, str):  # YAML has numbers, dates and null for keys
                raise ConfigError(f"--config {file}: {name!r} is no name of a setting")
    return data


def _missing(table: Table[Any], name: str) -> ConfigError:
    """The complaint about a setting that must be given and was not."""
    setting = next(s for s in table.settings if s.path == (name,))
    how = f"{setting.flags[-1]} {setting.metavar}" if setting.flags else setting.metavar
    return ConfigError(f"which {name}? give {how}: {setting.help[:1].lower()}{setting.help[1:]}")
