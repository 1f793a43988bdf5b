"""Small methods, a small model, and an artificial truth for the search to find."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, final

import pytest
from pydantic import Field

from paredown.errors import GroupSizeError, StrategyError
from paredown.methods import registry
from paredown.methods.base import Context, Kind, Method, Params
from paredown.search.base import Budget, Policy
from paredown.search.enumerated import Enumerated
from paredown.search.space import Space
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.result import Failure, FailureKind, Measurement, TrialResult
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits, Target
from paredown.spec.units import Unit

WIDTH = 96


class NoApply:
    """None of the fakes is ever applied."""

    def apply(self, source: Any, out: Path, params: Any, context: Context) -> Any:
        raise AssertionError("planning must not apply a method")


class CutParams(Params):
    ratio: Annotated[float, Field(gt=0, lt=1), Choice(0.25, 0.125, 0.5)] = 0.25


class CutBase(NoApply, Method[CutParams]):
    kind = Kind.PRUNING
    params_type = CutParams

    def check(self, spec: ModelSpec, params: CutParams, target: Target) -> None:
        pass

    def predict(self, spec: ModelSpec, params: CutParams) -> ModelSpec:
        return _resized(spec, rows=1.0 - params.ratio)


@final
class Cut(CutBase):
    name = "cut"
    summary = "removes rows"


@final
class Trim(CutBase):
    name = "trim"
    summary = "removes rows, too"


class MendParams(Params):
    rank: Annotated[int, Field(ge=1), Choice(8, 16, 32)] = 8


@final
class Mend(NoApply, Method[MendParams]):
    name = "mend"
    kind = Kind.TUNING
    summary = "trains"
    params_type = MendParams

    def check(self, spec: ModelSpec, params: MendParams, target: Target) -> None:
        pass

    def predict(self, spec: ModelSpec, params: MendParams) -> ModelSpec:
        return spec


class RoundParams(Params):
    bits: Annotated[int, Field(ge=1, le=8), Choice(4, 8, 2)] = 4
    group_size: Annotated[int, Field(ge=1), Choice(32, 16, 64)] = 32
    """64 does not divide the model's width."""
    steps: int = 20
    """Not searched."""


class RoundBase(NoApply, Method[RoundParams]):
    kind = Kind.QUANTIZATION
    params_type = RoundParams

    def check(self, spec: ModelSpec, params: RoundParams, target: Target) -> None:
        if WIDTH % params.group_size:
            raise GroupSizeError("block", WIDTH, params.group_size)

    def predict(self, spec: ModelSpec, params: RoundParams) -> ModelSpec:
        return _resized(spec, rows=params.bits / 8).model_copy(update={"quantization": self.name})


@final
class Round(RoundBase):
    name = "round"
    summary = "rounds"


@final
class Solve(RoundBase):
    name = "solve"
    summary = "rounds with care"


@final
class Same(NoApply, Method[Params]):
    name = "same"
    kind = Kind.QUANTIZATION
    summary = "changes nothing, so it is always refused"
    params_type = Params

    def check(self, spec: ModelSpec, params: Params, target: Target) -> None:
        raise StrategyError("same: nothing to do; leave the step out")

    def predict(self, spec: ModelSpec, params: Params) -> ModelSpec:
        return spec


@final
class Exotic(RoundBase):
    name = "exotic"
    summary = "needs a library that nobody has"
    extra = ("paredown_no_such_library", "exotic")


METHODS = {
    kind.name: f"tests.search.search_fakes:{kind.__name__}"
    for kind in (Same, Round, Solve, Exotic, Cut, Trim, Mend)
}
WORKING = ("round", "solve", "cut", "trim", "mend")


def _resized(spec: ModelSpec, *, rows: float) -> ModelSpec:
    return spec.with_tensors(
        [t.model_copy(update={"shape": (int(t.shape[0] * rows), *t.shape[1:])})
         for t in spec.tensors]
    )  # fmt: skip


def use_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fakes are all the methods there are."""
    monkeypatch.setattr(registry, "BUILTIN", METHODS)
    monkeypatch.setattr(registry, "_plugins", lambda: ())


def model_spec() -> ModelSpec:
    """8000 rows of one byte: 768 kB."""
    return ModelSpec(
        name="fake", path=None, architecture="FakeForCausalLM", model_type="fake", family="fake",
        parameters=8000 * WIDTH, active_parameters=8000 * WIDTH, layers=1, hidden_size=WIDTH,
        intermediate_size=None, heads=None, kv_heads=None, head_dim=None, vocabulary=None,
        context=None, dtype="U8", tied_embeddings=False,
        tensors=(TensorInfo(name="block", dtype="U8", shape=(8000, WIDTH)),),
    )  # fmt: skip


def build(limits: Limits | None = None, **options: Any) -> Enumerated:
    """The space of the fakes."""
    return Enumerated.build(model_spec(), Target(limits=limits or Limits()), **options)


def _measured(name: str, value: float, unit: Unit) -> Measurement:
    return Measurement(
        name=name, value=value, unit=unit, n=1, stderr=None, lower_is_better=True,
        source="measured", how="made up",
    )  # fmt: skip


def result(
    strategy: Strategy | None, *, episode: int, perplexity: float, size: float, ms: float = 10.0
) -> TrialResult:
    """A finished trial."""
    return TrialResult(
        episode=episode,
        strategy=strategy,
        label="baseline" if strategy is None else str(strategy),
        kind="baseline" if strategy is None else "quantization",
        status="ok",
        measurements=(
            _measured("perplexity", perplexity, Unit.PERPLEXITY),
            _measured("size", size, Unit.BYTES),
            _measured("decode_latency", ms, Unit.MS_PER_TOKEN),
            _measured("peak_memory", size + 1e5, Unit.BYTES),
            _measured("speedup", 10.0 / ms, Unit.RATIO),
            _measured("compression_ratio", 768e3 / size, Unit.RATIO),
        ),
    )


def failure(strategy: Strategy, *, episode: int) -> TrialResult:
    """A trial that came to nothing."""
    return TrialResult(
        episode=episode, strategy=strategy, label=str(strategy), kind="quantization",
        status="failed", failure=Failure(kind=FailureKind.METHOD_ERROR, message="made up"),
    )  # fmt: skip


Truth = Callable[[Strategy, int], TrialResult]


def smooth_truth(strategy: Strategy, episode: int) -> TrialResult:
    """Perplexity is best with `solve`, more bits, smaller groups, less cut, and a little `mend`."""
    loss, size = 0.0, 768e3
    for step in strategy.steps:
        p = step.params
        match step.method:
            case "round" | "solve":
                loss += (8 - p["bits"]) ** 2 * (0.05 if step.method == "round" else 0.02)
                loss += p["group_size"] / 160
                size *= p["bits"] / 8
            case "cut" | "trim":
                loss += p["ratio"] * (2.0 if step.method == "cut" else 3.0)
                size *= 1 - p["ratio"]
            case _:
                loss += 0.3 - p["rank"] / 300
    return result(strategy, episode=episode, perplexity=20 * math.exp(loss), size=size)


def play(
    policy: Policy,
    space: Space,
    *,
    episodes: int,
    truth: Truth = smooth_truth,
    limits: Limits | None = None,
    history: tuple[TrialResult, ...] = (),
) -> tuple[TrialResult, ...]:
    """Run the loop from `history` (or a baseline) on, until the policy ends it."""
    results = list(history) or [result(None, episode=0, perplexity=20.0, size=768e3)]
    for left in range(episodes, 0, -1):
        decision = policy.propose(
            tuple(results), space, limits or Limits(), budget=Budget(episodes_left=left)
        )
        if decision.strategy is None:
            break
        found = truth(decision.strategy, len(results))
        results.append(found.model_copy(update={"proposed_by": decision.policy}))
    return tuple(results)


def timed(result: TrialResult, seconds: float, *, evaluate: float = 0.0) -> TrialResult:
    """The result, after so many seconds of compressing and evaluating."""
    took = {"compress_s": seconds, "evaluate_s": evaluate, "wall_s": seconds + evaluate}
    return result.model_copy(update=took)


def proposed(results: tuple[TrialResult, ...]) -> list[str]:
    """Labels of what was tried."""
    return [registry.label(r.strategy) for r in results if r.strategy is not None]
