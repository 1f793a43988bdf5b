"""A synthetic table of trials, for tests only: nothing in it was measured.

It has what makes real tables hard: methods of very different price and merit, interactions (what
is pruned hard loses more when it is quantized hard), recovery that is expensive and pays only
after damage, failures, and noise.
"""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar

from pydantic import Field

from paredown.methods import registry
from paredown.methods.base import Context, Kind, Method, Params
from paredown.search.enumerated import Enumerated
from paredown.search.replay import Table
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec
from paredown.spec.result import TrialResult
from paredown.spec.serial import content_hash
from paredown.spec.strategy import Strategy
from paredown.spec.target import Target
from tests.search.search_fakes import failure, model_spec, result

BASE_SIZE = 768e3


class QuantizeParams(Params):
    bits: Annotated[int, Field(ge=2, le=8), Choice(4, 8, 3)] = 4
    group_size: Annotated[int, Field(ge=8), Choice(32, 16, 96)] = 32
    symmetric: Annotated[bool, Choice(True, False)] = True


class PruneParams(Params):
    ratio: Annotated[float, Field(gt=0, lt=1), Choice(0.2, 0.1, 0.4)] = 0.2
    repair: Annotated[bool, Choice(False, True)] = False


class TuneParams(Params):
    rank: Annotated[int, Field(ge=1), Choice(8, 16, 32)] = 8


class Synthetic(Method[Any]):
    """A method whose effect is made up.

    Class attributes:
        merit: factor on the loss of quality; smaller is better.
        seconds: of one step.
    """

    summary = "made up"
    merit: ClassVar[float]
    seconds: ClassVar[float]

    def check(self, spec: ModelSpec, params: Any, target: Target) -> None:
        pass

    def predict(self, spec: ModelSpec, params: Any) -> ModelSpec:
        if self.kind is not Kind.QUANTIZATION:
            return spec
        return spec.model_copy(update={"quantization": self.name})

    def apply(self, source: Any, out: Path, params: Any, context: Context) -> Any:
        raise AssertionError("planning must not apply a method")


def _made(name: str, kind: Kind, params: type[Params], merit: float, seconds: float) -> type:
    fields = {"name": name, "kind": kind, "params_type": params, "merit": merit,
              "seconds": seconds}  # fmt: skip
    return type(name.title(), (Synthetic,), fields)


_QUANTIZATIONS = {"near": (1.0, 8.0), "hessian": (0.45, 40.0), "aware": (0.6, 50.0),
                  "learned": (0.35, 300.0), "half": (0.8, 15.0)}  # fmt: skip
_PRUNINGS = {"blind": (3.0, 10.0), "norm": (1.6, 10.0), "saliency": (0.8, 30.0),
             "layers": (1.2, 8.0)}  # fmt: skip
_TUNINGS = {"adapter": (0.5, 200.0), "teacher": (0.4, 400.0)}
for _name, _pair in _QUANTIZATIONS.items():
    globals()[_name.title()] = _made(_name, Kind.QUANTIZATION, QuantizeParams, *_pair)
for _name, _pair in _PRUNINGS.items():
    globals()[_name.title()] = _made(_name, Kind.PRUNING, PruneParams, *_pair)
for _name, _pair in _TUNINGS.items():
    globals()[_name.title()] = _made(_name, Kind.TUNING, TuneParams, *_pair)
METHODS = {n: f"{__name__}:{n.title()}" for n in (*_QUANTIZATIONS, *_PRUNINGS, *_TUNINGS)}


def trial(strategy: Strategy, *, episode: int, world: int) -> TrialResult:
    """What would come of a strategy; `world` varies the merits of methods and the noise."""
    rng = Random(content_hash([world, strategy.hash]))
    loss, size, speed, seconds = 0.0, 1.0, 1.0, 0.0
    for step in strategy.steps:
        p, method = step.params, registry.load(step.method)
        merit = method.merit * math.exp(Random(content_hash([world, step.method])).gauss(0, 0.3))  # type: ignore[attr-defined]
        seconds += method.seconds * math.exp(rng.gauss(0, 0.1))  # type: ignore[attr-defined]
        match method.kind:
            case Kind.PRUNING:
                size *= 1 - p["ratio"]
                speed *= 1 - 0.8 * p["ratio"]
                loss += merit * p["ratio"] ** 1.5 * (2.5 if p["repair"] else 4.0)
            case Kind.TUNING:
                loss = loss * merit * (1.1 - p["rank"] / 160) + 0.02
            case Kind.QUANTIZATION:
                size *= (p["bits"] + (16 if p["symmetric"] else 32) / p["group_size"]) / 16
                speed *= 0.5 + p["bits"] / 16
                damage = merit * 4.0 ** (3 - p["bits"]) * (p["group_size"] / 32) ** 0.5
                loss += damage * (1.0 if p["symmetric"] else 0.75) * (1 + 2 * loss)
    if rng.random() < 0.04:
        made, evaluate = failure(strategy, episode=episode), 0.0
    else:
        perplexity = 20 * math.exp(loss + rng.gauss(0, 4e-3))
        ms = 10 * speed * math.exp(rng.gauss(0, 0.04))
        made = result(
            strategy, episode=episode, perplexity=perplexity, size=BASE_SIZE * size, ms=ms
        )
        evaluate = 20.0
    took = {"compress_s": seconds, "evaluate_s": evaluate, "wall_s": seconds + evaluate}
    return made.model_copy(update=took)


def table(*, world: int, max_steps: int = 2) -> Table:
    """The whole space of these methods, every strategy tried once."""
    space = Enumerated.build(model_spec(), Target(), max_steps=max_steps)
    baseline = result(None, episode=0, perplexity=20.0, size=BASE_SIZE)
    trials = {
        key: trial(strategy, episode=number, world=world)
        for number, (key, strategy) in enumerate(space.by_hash.items(), start=1)
    }
    return Table(
        about={"synthetic": True, "world": world},
        baseline=baseline,
        by_hash=trials,
        predicted_bytes=space.sizes,
    )
