"""Strategies: ordered steps, written `structured_afr(ratio=0.2) > gptq(bits=4, group_size=64)`.

The text form is read with Python's own parser, so values are Python (or JSON) literals and
nothing is ever evaluated. Which methods and parameters exist is not known here:
`paredown.methods.registry` validates a parsed strategy and fills in its defaults.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paredown.errors import StrategyError
from paredown.spec.reading import parse_json, require_tame
from paredown.spec.serial import content_hash

LONGEST_TEXT = 500_000
"""Characters of a strategy's text; a plan over the layers of a large model has some 100,000."""
MOST_STEPS = 32
"""More steps than methods exist help nobody, and each one is a pass over the model."""
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}


class Step(BaseModel):
    """A method with its parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    params: dict[str, Any] = Field(default_factory=dict)

    def __str__(self) -> str:
        inner = ", ".join(f"{k}={_literal(v)}" for k, v in self.params.items())
        return f"{self.method}({inner})" if inner else self.method


class Strategy(BaseModel):
    """An ordered list of steps. Its content hash is its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[Step, ...] = Field(min_length=1)

    def __str__(self) -> str:
        return " > ".join(str(step) for step in self.steps)

    @cached_property
    def hash(self) -> str:
        """Identity; meaningful on a canonical strategy, in which every parameter is explicit.

        Computed once: a search asks for it thousands of times per proposal.
        """
        return content_hash(self)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, which would give a changed copy the hash of the original."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("hash", None)
        return copied


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def parse_strategy(text: str) -> Strategy:
    """Read a strategy from its text form or from JSON (`{"steps": [...]}` or a list of steps).

    Raises:
        StrategyError: the text is not a strategy; the message shows what was found where.
    """
    stripped = " ".join(text.split("\n")).strip()  # a step per line, as in YAML, is welcome
    if len(stripped) > LONGEST_TEXT:
        raise StrategyError(
            f"the strategy has {len(stripped)} characters, at most {LONGEST_TEXT} are read; "
            f"it begins with {stripped[:40]!r}"
        )
    if not stripped:
        raise StrategyError("the strategy is empty; write for example 'gptq(bits=4)'")
    if stripped[0] in "{[":
        return _from_json(stripped)
    try:
        tree = ast.parse(stripped, mode="eval").body
    except (RecursionError, MemoryError):
        raise StrategyError("the strategy is nested too deeply to be read") from None
    except SyntaxError as error:
        raise StrategyError(
            f"cannot read the strategy {_cut(text)!r}: {error.msg} at character {error.offset}; "
            "write steps as method(name=value, ...) joined by '>'"
        ) from None
    chain = _chain(tree, stripped)
    _require_few(len(chain))
    return Strategy(steps=tuple(_step(node, stripped) for node in chain))


def _require_few(steps: int) -> None:
    if steps > MOST_STEPS:
        raise StrategyError(f"the strategy has {steps} steps; at most {MOST_STEPS} are allowed")


def _cut(text: str, limit: int = 200) -> str:
    """What a message repeats of a text that may be long."""
    return text if len(text) <= limit else text[:limit] + "..."


def _from_json(text: str) -> Strategy:
    data = parse_json(text, where="cannot read the strategy from JSON", error=StrategyError)
    steps = data if isinstance(data, list) else data.get("steps")
    _require_few(len(steps) if isinstance(steps, list) else 0)
    try:
        return Strategy.model_validate({"steps": data} if isinstance(data, list) else data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StrategyError(
            f"cannot read the strategy from JSON: {where}: {first['msg']}; "
            'write {"steps": [{"method": "gptq", "params": {"bits": 4}}]}'
        ) from None


def _chain(tree: ast.expr, text: str) -> list[ast.expr]:
    if not isinstance(tree, ast.Compare):
        return [tree]
    if not all(isinstance(op, ast.Gt) for op in tree.ops):
        raise StrategyError(f"steps are joined by '>' only, in {_cut(text)!r}")
    return [tree.left, *tree.comparators]


def _step(node: ast.expr, text: str) -> Step:
    source = _cut(ast.get_source_segment(text, node) or text)
    if isinstance(node, ast.Name):
        return Step(method=node.id)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise StrategyError(f"{source!r} is no step; write method(name=value, ...)")
    if node.args:
        raise StrategyError(f"{source!r}: parameters need their names, as in bits=4")
    params: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise StrategyError(f"{source!r}: '**' has no meaning in a strategy")
        if keyword.arg in params:
            raise StrategyError(f"{source!r}: {keyword.arg} is given twice")
        params[keyword.arg] = _value(keyword.value, source)
    return Step(method=node.func.id, params=params)


def _value(node: ast.expr, source: str) -> Any:
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    try:
        # Through JSON, so that text and JSON form of a strategy hold the same values.
        value = json.loads(json.dumps(ast.literal_eval(node), allow_nan=False))
        require_tame(value)
        return value
    except (ValueError, TypeError, RecursionError):
        raise StrategyError(
            f"{source!r}: {_cut(ast.unparse(node))} is no value; use a number, true/false, "
            'a "text", a [list] or a {"name": value}'
        ) from None
