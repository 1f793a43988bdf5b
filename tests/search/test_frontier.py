"""The arm that proposes plans: its line, what it makes of trials, and what it says."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from paredown.methods import registry
from paredown.methods.shared.units import KL_PER_BIT, USUAL_BPW, USUAL_KL
from paredown.search.base import Budget, View
from paredown.search.enumerated import Enumerated
from paredown.search.policies.frontier import (
    LEVEL_ERROR,
    OVER_UNIFORM,
    PLAN_ERROR,
    UNIFORM_ERROR,
    Frontier,
    Line,
)
from paredown.search.policies.portfolio import Portfolio
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.target import Limits, Target
from paredown.spec.units import Unit
from paredown.testing.tiny import tiny_model
from tests.search.search_fakes import _measured, result, timed

PAIR: tuple[Objective, ...] = ("quality", "size")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("frontier") / "m", tokenizer=False))


def space(spec: ModelSpec, limits: Limits | None = None) -> Enumerated:
    target = Target(limits=limits or Limits())
    return Enumerated.build(spec, target, methods=("mixed", "gptq"), max_steps=1)


def curve(bits: float, *, level: float = 0.1, per_bit: float = 2.0) -> float:
    """KL of the best plan in an imagined model."""
    return level * math.exp(math.log(per_bit) * (USUAL_BPW - bits))


def trial(
    spec: ModelSpec, text: str | None, episode: int, bits: float, kl: float, seconds: float = 10.0
) -> TrialResult:
    strategy = None if text is None else registry.canonical(text)
    size = bits * spec.parameters / 8
    ppl = 20.0 * math.exp(0.9 * kl)
    made = result(strategy, episode=episode, perplexity=ppl, size=size)
    more = (
        _measured("bits_per_weight", bits, Unit.BITS_PER_WEIGHT),
        _measured("kl", kl, Unit.NATS_PER_TOKEN),
        _measured("perplexity_ratio", math.exp(0.9 * kl), Unit.RATIO),
    )
    ratio = _measured("compression_ratio", 16.0 / bits, Unit.RATIO)
    old = [m for m in made.measurements if m.name != "compression_ratio"]
    return timed(made.model_copy(update={"measurements": (*old, ratio, *more)}), seconds)


def history(spec: ModelSpec, *trials: tuple[str, float, float]) -> tuple[TrialResult, ...]:
    base = trial(spec, None, 0, 16.0, 0.0)
    return (base, *(trial(spec, t, n, b, kl) for n, (t, b, kl) in enumerate(trials, 1)))


def view(spec: ModelSpec, found: tuple[TrialResult, ...], limits: Limits | None = None) -> View:
    limits = limits or Limits()
    return View(
        history=found, space=space(spec, limits), limits=limits, budget=Budget(episodes_left=9)
    )


def test_without_trials_the_line_is_what_is_usual() -> None:
    line = Line.through([], [])
    found = line.at(np.array([USUAL_BPW, USUAL_BPW + 1]))
    assert np.exp(found.mean) == pytest.approx([USUAL_KL, USUAL_KL / KL_PER_BIT])
    assert found.error[0] == pytest.approx(math.hypot(LEVEL_ERROR, PLAN_ERROR))
    assert line.bits(USUAL_KL / KL_PER_BIT) == pytest.approx(USUAL_BPW + 1)


def test_one_plan_sets_the_level_as_its_error_allows() -> None:
    """By hand: precision 1 / 0.12^2 against 1 / 1.5^2 at the usual size, where no slope counts."""
    line = Line.through([(USUAL_BPW, 0.03)], [])
    share = PLAN_ERROR**-2 / (PLAN_ERROR**-2 + LEVEL_ERROR**-2)
    wanted = share * math.log(0.03) + (1 - share) * math.log(USUAL_KL)
    assert line.mean[0] == pytest.approx(wanted)
    assert line.covariance[0, 0] == pytest.approx(1 / (PLAN_ERROR**-2 + LEVEL_ERROR**-2))


def test_many_plans_outweigh_what_is_usual_and_uniform_models_count_for_less() -> None:
    plans = [(b, curve(b)) for b in (3.0, 4.0, 5.0, 6.0, 7.0)]
    line = Line.through(plans, [])
    assert math.exp(-line.mean[1]) == pytest.approx(2.0, rel=0.15)
    assert math.exp(float(line.at(np.array([5.5])).mean[0])) == pytest.approx(curve(5.5), rel=0.05)
    alone = Line.through([], [(4.25, 0.2)])
    level = math.exp(float(alone.mean[0]))
    assert level == pytest.approx(OVER_UNIFORM * 0.2, rel=0.05)
    assert alone.at(np.array([4.25])).error[0] > UNIFORM_ERROR


def test_it_waits_for_a_quantized_model_and_ends_with_the_last_plan(spec: ModelSpec) -> None:
    arm = Frontier(seed=0, objectives=PAIR)
    assert not arm.is_ready(view(spec, history(spec)))
    one = history(spec, ("gptq(bits=8, group_size=32)", 9.0, 0.002))
    assert arm.is_ready(view(spec, one))
    plans = [registry.label(s) for s in space(spec).strategies if s.steps[0].method == "mixed"]
    assert plans
    every = history(spec, *((text, 8.0, 0.1) for text in plans))
    assert not arm.is_ready(view(spec, every))


def test_it_proposes_the_plan_that_its_line_says_adds_most(spec: ModelSpec) -> None:
    """Of a model that loses little, the small plans add most; of one that is ruined there, not."""
    reasons, bits = {}, {}
    for name, kls in (("flat", (0.02, 0.004)), ("steep", (1.2, 0.02))):
        seen = zip((6.3, 9.0), kls, strict=True)
        found = history(spec, *((f"mixed(size={int(b * 1000)})", b, kl) for b, kl in seen))
        decision = Frontier(seed=0, objectives=PAIR).choose(view(spec, found))
        assert decision.strategy is not None
        assert decision.policy == "frontier"
        reasons[name], bits[name] = decision.reason, decision.strategy.steps[0].params["bpw"]
    assert bits["flat"] < bits["steep"]
    assert "(measured: plans 2, uniform models" in reasons["flat"]
    assert "bits per weight" in reasons["flat"]
    assert "of the box of trade-offs" in reasons["flat"]


def test_the_loss_that_is_accepted_is_approached_by_what_was_measured(spec: ModelSpec) -> None:
    """Asked for 0.08, measured 0.12: of what is left, that which would then keep 0.1."""
    limits = Limits(kl=0.1)
    seen = history(spec, ("gptq(bits=8, group_size=32)", 9.0, 0.02), ("mixed(kl=0.08)", 5.0, 0.12))
    decision = Frontier(seed=0, objectives=PAIR).choose(view(spec, seen, limits))
    assert decision.strategy is not None
    asked = decision.strategy.steps[0].params["kl"]
    assert asked is not None
    assert asked * 0.12 / 0.08 < 0.1


def test_it_is_an_arm_of_the_portfolio_where_plans_are_searched(spec: ModelSpec) -> None:
    portfolio = Portfolio.create(seed=0, objectives=PAIR)
    ready = view(spec, history(spec, ("gptq(bits=8, group_size=32)", 9.0, 0.002)))
    assert "frontier" in portfolio._ready(ready).shares(ready)
    fresh = view(spec, history(spec))
    shares = portfolio._ready(fresh).shares(fresh)
    assert "frontier" not in shares
    assert sum(shares.values()) == pytest.approx(1.0)


def test_a_run_of_the_portfolio_finds_plans(spec: ModelSpec) -> None:
    found = play_real(spec, lambda bits: curve(bits, level=0.15, per_bit=3.6), episodes=8)
    by = [r.proposed_by for r in found]
    assert "portfolio:frontier" in by


def play_real(
    spec: ModelSpec, truth: Callable[[float], float], episodes: int
) -> tuple[TrialResult, ...]:
    """A run in which plans have the KL of `truth` and uniform models half as much again."""
    here = space(spec)
    policy = Portfolio.create(seed=0, objectives=PAIR)
    results = [trial(spec, None, 0, 16.0, 0.0)]
    for left in range(episodes, 0, -1):
        decision = policy.propose(results, here, Limits(), budget=Budget(episodes_left=left))
        assert decision.strategy is not None
        bits = 8 * here.predicted_bytes(decision.strategy) / spec.parameters
        worse = 1.0 if decision.strategy.steps[0].method == "mixed" else 1.5
        made = trial(spec, str(decision.strategy), len(results), bits, worse * truth(bits))
        results.append(made.model_copy(update={"proposed_by": decision.policy}))
    return tuple(results)
