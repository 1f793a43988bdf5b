"""Values as people write them: `a,b`, `2usd`, `32,128x1,4`. The same in every door.

These are validators of config fields, so that a setting may be written in one way on the command
line, in the environment, in a file and in a call of the API.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from paredown.language import matching

V = TypeVar("V")


def listed(value: Any) -> Any:
    """One text is a list of one."""
    return [value] if isinstance(value, str) else value


def by_commas(value: Any) -> Any:
    """`a,b` is a list of two, also where it is one of several: `--methods a,b --methods c`."""
    if not isinstance(listed(value), list | tuple):
        return value  # its type is refused by the field
    parts: list[Any] = []
    for item in listed(value):
        parts += [part.strip() for part in item.split(",")] if isinstance(item, str) else [item]
    return [part for part in parts if part != ""]


def distinct(values: Sequence[V]) -> Sequence[V]:
    """Refuse what is named twice: it would count twice, or hide a slip."""
    twice = next((v for i, v in enumerate(values) if v in values[:i]), None)
    if twice is not None:
        raise PydanticCustomError("twice", "{value} is named twice", {"value": repr(twice)})
    return values


def device(value: Any) -> Any:
    """What people call a GPU elsewhere."""
    if isinstance(value, str) and value.lower() in {"gpu", "nvidia"}:
        raise PydanticCustomError("device", "must be 'auto', 'cpu' or 'cuda'; did you mean 'cuda'?")
    return value


def located(path: Path) -> Path:
    """From the root: a run that goes on from another folder must find the same file."""
    return Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111 - never raise


def language(tag: Any) -> Any:
    """A language as it is called here: `zh_tw` and `zh-Hant` are `zh-TW`."""
    return (matching(tag) or tag) if isinstance(tag, str) else tag


def llm_budget(fields: Any) -> Any:
    """`budget_tokens` may be written as money: `2usd` sets `budget_usd`."""
    text = fields.get("budget_tokens") if isinstance(fields, dict) else None
    if not isinstance(text, str):
        return fields
    number = text.lower().removesuffix("usd").strip()
    is_money = number != text.lower().strip()
    try:
        amount = float(number) if is_money else int(number)
    except ValueError:
        raise ValueError(
            f"budget_tokens = {text[:80]!r}: give tokens as in 200000, or money as in 2usd"
        ) from None
    rest = {name: value for name, value in fields.items() if name != "budget_tokens"}
    return rest | {"budget_usd" if is_money else "budget_tokens": amount}


def text_list(fields: Any, name: str) -> list[str] | None:
    """The texts that the field `name` lists, before validation; None: not given, or no list.

    Raises:
        ValueError: an empty list, or one of other things than texts.
    """
    value = listed(fields.get(name)) if isinstance(fields, dict) else None
    if not isinstance(value, list | tuple):
        return None
    if not value or not all(isinstance(item, str) and item.strip() for item in value):
        raise ValueError(f"{name} = {str(value)[:80]}: give at least one name, each a text")
    return list(value)


def shared(config: BaseModel, kind: type[BaseModel]) -> dict[str, Any]:
    """The values that a config shares with another class, ready to make one of it."""
    return {name: getattr(config, name) for name in kind.model_fields if hasattr(config, name)}
