"""What an LLM answers: read, checked against the space, and refused with words it can learn from.

The answer can do nothing but name a strategy that the search could have chosen itself.
"""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paredown.errors import AdviceError, ConfigError, did_you_mean
from paredown.methods import registry
from paredown.search.base import View
from paredown.search.index import genome
from paredown.spec.strategy import Strategy

MAX_ANSWER = 8000
"""Characters of an answer that are looked at; an advice takes some hundred."""
MAX_STRATEGY = 400
BRIEF_REASON = 80
"""Characters of a small model's reason."""

LlmAction = Literal[
    "quantization", "pruning", "lora", "qlora", "distillation", "pipeline", "search", "end"
]


class Expected(BaseModel):
    """What the LLM expects of its strategy."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    perplexity_ratio: float | None = Field(default=None, gt=0, lt=1e6)
    """Over the baseline's; 1.05 is a loss of 5 %."""
    speedup: float | None = Field(default=None, gt=0, lt=1e4)
    """Decode speed over the baseline's."""


class Advice(BaseModel):
    """One answer."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    action: LlmAction | None = None
    """None: what the strategy is."""
    strategy: str | None = Field(default=None, max_length=MAX_STRATEGY)
    expected: Expected = Expected()
    reason: str = Field(min_length=1, max_length=2000)
    learned: str | None = Field(default=None, max_length=2000)
    """What the trials so far have taught it, in one sentence; asked only of one that leads."""


def schema(*, leads: bool = False) -> dict[str, Any]:
    """JSON schema of the answer, in the strict form that endpoints enforce."""
    number = {"type": ["number", "null"]}
    return _strict(
        {
            "action": {"type": "string", "enum": list(get_args(LlmAction))},
            "strategy": {"type": ["string", "null"]},
            "expected": _strict({"perplexity_ratio": number, "speedup": number}),
            "reason": {"type": "string"},
            **({"learned": {"type": "string"}} if leads else {}),
        }
    )


def brief_schema(strategies: list[str]) -> dict[str, Any]:
    """What a small model is asked for: one of these strategies, and a few words. Nothing that it
    would only make up; a grammar keeps it to that."""
    return _strict(
        {
            "strategy": {"type": "string", "enum": strategies},
            "reason": {"type": "string", "minLength": 1, "maxLength": BRIEF_REASON},
        }
    )


def _strict(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def read_advice(text: str) -> Advice:
    """The advice in an answer; words around its JSON are passed over.

    Raises:
        AdviceError: there is none, or a field is wrong; says which.
    """
    if not text.strip():
        raise AdviceError("the answer is empty")
    if len(text) > MAX_ANSWER:
        raise AdviceError(f"the answer has {len(text)} characters; at most {MAX_ANSWER} are read")
    start = text.find("{")
    if start < 0:
        raise AdviceError("the answer holds no JSON object")
    try:
        document, _ = json.JSONDecoder().raw_decode(text[start:])
        return Advice.model_validate(document)
    except json.JSONDecodeError as error:
        raise AdviceError(f"the answer is no JSON: {error.msg} at {error.pos}") from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "answer"
            raise AdviceError(f"{where}: {first['msg']}") from None
        raise AdviceError("the answer is nested too deeply, or holds a huge number") from None


def find_strategy(advice: Advice, view: View) -> Strategy | None:
    """The strategy that is advised; None for `search` and `end`, which leave it to the search.

    Raises:
        AdviceError: it is no strategy, not in the space, known already, or takes too long.
    """
    if advice.action in {"search", "end"}:
        return None
    if not advice.strategy:
        raise AdviceError("the answer names no strategy; only search and end need none")
    try:
        strategy = view.space.read(advice.strategy)
    except ConfigError as error:
        raise AdviceError(f"strategy: {error}") from None
    return require_proposable(strategy, view)


def require_proposable(strategy: Strategy, view: View) -> Strategy:
    """The strategy (canonical), which the search may propose now.

    Raises:
        AdviceError: it is not in the space, known already, takes longer than the time left, or is
            forecast to be hopeless while something better is left.
    """
    shown = registry.label(strategy)
    if strategy not in view.space:
        raise AdviceError(f"{shown} is not in the search space; {_nearest(strategy, view)}")
    if strategy.hash in view.tried:
        raise AdviceError(f"{shown} was tried already, or is running; {_nearest(strategy, view)}")
    if not view.is_in_time(strategy):
        seconds = view.costs.seconds(strategy)
        raise AdviceError(f"{shown} would take {seconds:.0f} s, longer than the time left")
    if strategy.hash in view.shunned:
        raise AdviceError(
            f"{shown} is forecast to break a limit, or to ruin the model, and something better is "
            f"left; {_nearest(strategy, view)}"
        )
    return strategy


def _nearest(strategy: Strategy, view: View) -> str:
    """The untried strategy with the same methods that is nearest, or the methods there are."""
    index = view.space.index
    near = view.nearest(genome(strategy))
    if near is not None:
        return f"the nearest untried one is {registry.label(near)}"
    known = {method for methods in index.methods.values() for method in methods}
    missing = [step.method for step in strategy.steps if step.method not in known]
    if missing:
        return f"method {missing[0]!r} is not searched here; {did_you_mean(missing[0], known)}"
    return "no strategy with these methods is left"
