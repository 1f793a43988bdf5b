"""The space that cannot be listed: plans over 203 units, drawn and changed unit by unit."""

from __future__ import annotations

import math
import time
from random import Random
from statistics import pstdev
from typing import Any

import pytest

from paredown.methods import registry
from paredown.search.base import Budget, Policy, View
from paredown.search.enumerated import Enumerated
from paredown.search.index import ALONE, SWAPPED
from paredown.search.policies.evolutionary import Evolutionary
from paredown.search.policies.random import Uniform
from paredown.search.policies.registry import BUILTIN, create
from paredown.search.product import Product
from paredown.spec.domain import PlanDomain
from paredown.spec.layers import LayerUnit
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits, Target
from tests.search.search_fakes import play, result, timed

BLOCKS = 29
METHODS = ("rtn", "hqq", "l2_structured")
PAIR: tuple[Objective, ...] = ("quality", "size")
SHAPES = {
    **{f"self_attn.{name}_proj": (256, 256) for name in "qkvo"},
    **{f"mlp.{name}_proj": (512, 256) for name in ("gate", "up")},
    "mlp.down_proj": (256, 512),
}


def model_spec() -> ModelSpec:
    """A llama of 29 blocks with 7 layers each."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (100, 256)}
    for i in range(BLOCKS):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in SHAPES.items()}
        shapes[f"model.layers.{i}.input_layernorm"] = (256,)
    shapes["lm_head"] = (100, 256)
    numbers = sum(math.prod(shape) for shape in shapes.values())
    return ModelSpec(
        name="deep", path=None, architecture="LlamaForCausalLM", model_type="llama",
        family="llama", parameters=numbers, active_parameters=numbers, layers=BLOCKS,
        hidden_size=256, intermediate_size=512, heads=4, kv_heads=4, head_dim=64, vocabulary=100,
        context=512, dtype="BF16", tied_embeddings=False,
        tensors=tuple(TensorInfo(name=f"{n}.weight", dtype="BF16", shape=s)
                      for n, s in shapes.items()),
    )  # fmt: skip


SPEC = model_spec()
UNITS = SPEC.structure.linears


@pytest.fixture(scope="module")
def space() -> Product:
    return Product.build(SPEC, Target(), methods=METHODS)


def planned(plan: dict[str, int], **params: Any) -> Strategy:
    return registry.canonical(Strategy.model_validate(
        {"steps": [{"method": "rtn", "params": {"plan": plan, **params}}]}
    ))  # fmt: skip


def plan_of(strategy: Strategy) -> dict[str, int]:
    plans = [step.params["plan"] for step in strategy.steps if "plan" in step.params]
    return dict(plans[0]) if plans else {}


def drawn_plan(seed: int) -> Strategy:
    rng = Random(seed)
    return planned({unit: rng.choice((2, 3, 5, 6, 8)) for unit in UNITS})


def test_it_lists_what_the_enumerated_space_has_and_has_more(space: Product) -> None:
    listed = Enumerated.build(SPEC, Target(), methods=METHODS)
    assert len(UNITS) == 203
    assert space.strategies == listed.strategies
    assert space.refused == listed.refused
    assert all(strategy in space for strategy in listed.strategies)
    plan = drawn_plan(0)
    assert plan in space
    assert plan not in listed
    assert not space.is_listed


def test_bytes_of_a_plan_are_those_of_its_layers(space: Product) -> None:
    """By hand: codes in 32-bit words per row, a 2-byte scale per group of 64, 16 for the shape."""
    strategy = drawn_plan(1)
    plan, size = plan_of(strategy), 2 * 2 * 100 * 256 + 2 * 256 * BLOCKS
    for unit in UNITS:
        rows, width = SHAPES[unit.split(".", 3)[3]]
        size += rows * (4 * math.ceil(width * plan[unit] / 32) + 2 * width // 64) + 16
    assert space.predicted_bytes(strategy) == size
    assert space.ratio(strategy) == SPEC.weight_bytes / size


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        (planned({UNITS[0]: 7}), "rtn: plan: 7 is not among 2, 3, 4, 5, 6, 8"),
        (planned({"*.q_proj": 8}), r"rtn: plan: '\*.q_proj' is no layer of the model"),
        (planned({}, bits=7), "rtn: bits = 7 is not among 3, 4, 5, 6, 8"),
        (planned({}, skip=["*.q_proj"]), r"rtn: skip = .* is not searched, only \[\]"),
        (registry.canonical("rtn > l2_structured"), "these methods, in this order, are not"),
        (registry.canonical("gptq"), "these methods, in this order, are not"),
    ],
)
def test_what_is_outside_is_refused_with_the_reason(
    space: Product, strategy: Strategy, why: str
) -> None:
    assert strategy not in space
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(space.refusal(strategy))


def test_limits_hold_for_plans() -> None:
    narrow = Product.build(SPEC, Target(limits=Limits(target_ratio=4.0)), methods=METHODS)
    wide, small = planned(dict.fromkeys(UNITS, 8)), planned(dict.fromkeys(UNITS, 2))
    assert narrow.refusal(wide) == "predicted ratio 1.93x < 4x"
    assert small in narrow
    rng = Random(0)
    assert all(narrow.ratio(narrow.sample(rng)) >= 4.0 for _ in range(10))


def test_samples_are_in_the_space_and_follow_from_the_seed(space: Product) -> None:
    drawn = [space.sample(Random(seed)) for seed in range(30)]
    assert all(strategy in space for strategy in drawn)
    assert drawn == [space.sample(Random(seed)) for seed in range(30)]
    assert len({strategy.hash for strategy in drawn}) > 25
    assert all(strategy == registry.canonical(strategy) for strategy in drawn)
    used = {step.method for strategy in drawn for step in strategy.steps}
    assert used == set(METHODS)
    assert 5 < sum(bool(plan_of(strategy)) for strategy in drawn) < 25


def test_plans_are_drawn_of_all_sizes() -> None:
    """Units drawn evenly would have mean bits within 0.15 of 5, whatever the seed."""
    domain = PlanDomain(values=(2, 4, 6, 8), follows="bits", layers_of=lambda spec: UNITS)
    means = []
    for seed in range(200):
        plan = domain.sample([LayerUnit((unit,)) for unit in UNITS], 4, Random(seed))
        assert 4 not in plan.values()
        means.append(sum(int(plan.get(unit, 4) or 0) for unit in UNITS) / len(UNITS))
    # Mean of Dirichlet(1) weights over 2, 4, 6, 8: variance 5 / (4 + 1), deviation 1.
    assert pstdev(means) == pytest.approx(1.0, rel=0.15)
    assert sum(means) / len(means) == pytest.approx(5.0, abs=0.25)


def test_a_unit_goes_one_place_up_or_down() -> None:
    domain = PlanDomain(values=(2, 3, 8), follows="bits", layers_of=lambda spec: UNITS)
    assert [domain.moved(bits, up=True) for bits in (2, 3, 8, 16)] == [3, 8, 8, 16]
    assert [domain.moved(bits, up=False) for bits in (2, 3, 8, 16)] == [2, 2, 3, 16]
    assert domain.normal({"a": 3, "b": 8}, 3) == {"b": 8}


@pytest.mark.slow
def test_neighbours_are_one_step_away(space: Product) -> None:
    start = drawn_plan(2)
    near = list(space.neighbours(start))
    assert len({strategy.hash for strategy in near} | {start.hash}) == len(near) + 1
    assert {space.index.distance(start, strategy) for strategy in near} <= {1, ALONE, SWAPPED}
    plan = plan_of(start)
    ends = sum(bits in (2, 8) for bits in plan.values())
    moved = [s for s in near if s.steps[0].method == "rtn" and len(s.steps) == 1
             and s.steps[0].params["bits"] == 4 and plan_of(s) != plan]  # fmt: skip
    assert len(moved) == 2 * len(UNITS) - ends
    methods = [tuple(step.method for step in s.steps) for s in near]
    assert ("hqq",) in methods  # another of its kind
    assert ("l2_structured", "rtn") in methods  # a step more
    longer = next(s for s in near if len(s.steps) == 2)
    assert start in list(space.neighbours(longer))  # a step less


@pytest.mark.slow
def test_neighbours_of_an_enumerated_space_stay_in_it() -> None:
    listed = Enumerated.build(SPEC, Target(), methods=METHODS)
    near = list(listed.neighbours(registry.canonical("rtn")))
    assert all(strategy in listed for strategy in near)
    labels = {registry.label(strategy) for strategy in near}
    assert {"rtn(bits=3)", "rtn(bits=5)", "hqq", "l2_structured(repair=True) > rtn"} <= labels
    assert "rtn(bits=3, group_size=32)" not in labels


def truth(strategy: Strategy, episode: int) -> TrialResult:
    """Later blocks matter less, by a factor of 100 from first to last; each bit a quarter."""
    loss = 0.0
    for step in strategy.steps:
        if step.method == "l2_structured":
            loss += step.params["ratio"]
            continue
        plan, bits = step.params["plan"], step.params["bits"]
        for place, unit in enumerate(UNITS):
            weight = 100.0 ** (-place / len(UNITS))
            loss += weight * 4.0 ** -plan.get(unit, bits) * (1.5 if step.method == "rtn" else 1.0)
    size = float(SIZES.predicted_bytes(strategy))
    return timed(result(strategy, episode=episode, perplexity=20 * math.exp(loss), size=size), 1.0)


SIZES = Product.build(SPEC, Target(), methods=METHODS)
START = (result(None, episode=0, perplexity=20.0, size=float(SPEC.weight_bytes)),)


@pytest.mark.parametrize("policy", [Evolutionary(seed=3), Uniform(seed=3)], ids=lambda p: p.name)
def test_nothing_is_listed_for_a_proposal(
    policy: Policy, space: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Milliseconds each: far less than reading the space, of which there is no list at all."""

    def refuse(view: View) -> Any:
        raise AssertionError("the list was asked for")

    monkeypatch.setattr(View, "untried", property(refuse))
    monkeypatch.setattr(View, "left", property(refuse))
    play(policy, space, episodes=5, truth=truth, history=START)  # what is worked out once
    started = time.process_time()
    found = play(policy, space, episodes=30, truth=truth, history=START)
    assert (time.process_time() - started) / 30 < 0.2
    tried = [r.strategy for r in found if r.strategy is not None]
    assert len(tried) == 30
    assert len({strategy.hash for strategy in tried}) == 30
    assert all(strategy in space for strategy in tried)
    assert any(plan_of(strategy) for strategy in tried)
    again = play(policy, space, episodes=20, truth=truth, history=found[:11])
    assert again == found  # a run cut short goes on as if it had not been


def test_children_of_plans_take_each_unit_from_either_and_move_some(space: Product) -> None:
    """Parents with 3 and 8 bits everywhere: 4 and 6 are the places beside, 2 lies below 3."""
    low, high = (planned(dict.fromkeys(UNITS, bits)) for bits in (3, 8))
    history = [*START, truth(low, 1), truth(high, 2)]
    both = moved = 0
    for seed in range(60):
        decision = Evolutionary(seed=seed, objectives=PAIR).propose(
            history, space, Limits(), budget=Budget(episodes_left=1)
        )
        assert decision.strategy is not None
        plan = plan_of(decision.strategy)
        if decision.strategy.steps[-1].method != "rtn" or not plan:
            continue  # the method was swapped
        bits = [plan.get(unit, decision.strategy.steps[-1].params["bits"]) for unit in UNITS]
        assert set(bits) <= {2, 3, 4, 6, 8}
        both += min(bits.count(3), bits.count(8)) > 60
        moved += any(value in {2, 4, 6} for value in bits)
    assert both > 4
    assert moved > 10


@pytest.mark.parametrize("name", BUILTIN)
def test_every_policy_can_search_it(name: str, space: Product) -> None:
    policy = create(name, seed=1, objectives=PAIR)
    found = play(policy, space, episodes=8, truth=truth, history=(*START, truth(drawn_plan(3), 1)))
    tried = [r.strategy for r in found if r.strategy is not None]
    assert len({strategy.hash for strategy in tried}) == 9
    assert all(strategy in space for strategy in tried)


@pytest.mark.parametrize("name", BUILTIN)
def test_where_the_list_ends_the_search_goes_on_or_says_why_not(name: str) -> None:
    space = Product.build(SPEC, Target(), methods=("rtn",), max_steps=1)
    history = [*START]
    history += [truth(s, n) for n, s in enumerate(space.strategies, start=1)]
    policy = create(name, seed=0, objectives=PAIR)
    decision = policy.propose(history, space, Limits(), budget=Budget(episodes_left=3))
    assert decision.strategy is not None
    assert plan_of(decision.strategy)
    late = Budget(episodes_left=3, seconds_left=0.01)
    ended = policy.propose(history, space, Limits(), budget=late)
    assert ended.strategy is None
    assert "too few for any strategy" in ended.reason


def test_methods_can_be_left_out(space: Product) -> None:
    without = space.without(("rtn",))
    assert drawn_plan(4) not in without
    assert {step.method for s in without.strategies for step in s.steps} == {"hqq", "l2_structured"}
    rng = Random(0)
    assert all(step.method != "rtn" for _ in range(20) for step in without.sample(rng).steps)


def test_what_the_runtime_joins_has_one_value() -> None:
    """vLLM computes q, k and v as one matrix, gate and up as another: 4 units per block, not 7."""
    target = Target(device="cuda", runtime="vllm")
    joined = Product.build(SPEC, target, methods=("rtn",), max_steps=1)
    (axis,) = joined.index.plans.values()
    assert len(axis.units) == 4 * BLOCKS
    assert axis.domain.values == (4, 8)  # what it holds
    rng = Random(0)
    drawn = [s for s in (joined.sample(rng) for _ in range(20)) if plan_of(s)]
    assert drawn
    near = next(s for s in joined.neighbours(drawn[0]) if plan_of(s) != plan_of(drawn[0]))
    for strategy in (*drawn, near):
        plan, bits = plan_of(strategy), strategy.steps[0].params["bits"]
        for i in range(BLOCKS):
            attention = f"model.layers.{i}.self_attn"
            assert len({plan.get(f"{attention}.{n}_proj", bits) for n in "qkv"}) == 1
    split = planned({"model.layers.0.self_attn.q_proj": 8})
    assert split not in joined
    alone = Product.build(SPEC, Target(runtime="vllm"), methods=("rtn",), max_steps=1)
    assert not alone.index.plans  # on a processor it holds 4 bits alone: nothing to assign
