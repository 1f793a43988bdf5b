"""Files that people edit, YAML or JSON, as checked records: what is wrong is told with its line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from paredown.errors import ConfigError
from paredown.spec.explain import explain
from paredown.spec.reading import read_json, read_text, read_yaml

R = TypeVar("R", bound=BaseModel)


def read_record(kind: type[R], path: Path) -> R:
    """The record in a file; `.json` is read as JSON, anything else as YAML.

    Raises:
        ConfigError: it cannot be read, is no such record; with file, line and field.
    """
    value = read_json(path) if path.suffix == ".json" else read_yaml(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: line 1: it must hold settings by name, as in `model: demo`")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        line = line_of(read_text(path), error.errors()[0]["loc"])
        where = f"{path}: line {line}" if line is not None else str(path)
        raise ConfigError(f"{where}: {explain(error, kind)}") from None


def line_of(text: str, place: Sequence[str | int]) -> int | None:
    """Line, from 1, of a field in a YAML or JSON document; of what holds it where it is missing.

    None where YAML's reader does not read the text, as JSON with tabs.
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return None
    line = 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pair = next((p for p in node.value if p[0].value == str(part)), None)
            if pair is None:
                break
            # A block begins below its name: the name is what is looked for.
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode):
            if not isinstance(part, int) or not 0 <= part < len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line + 1
        else:  # a part that pydantic names, as the class of a union
            break
    return line
