"""What a run begins with where a size or a loss is asked for."""

from __future__ import annotations

import math

import pytest

from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.methods.shared.units import choices_of
from paredown.search.aim import Aimed, accepted_kl, aims
from paredown.search.base import Budget
from paredown.search.enumerated import Enumerated
from paredown.search.policies import registry as policies
from paredown.search.policies.grid import GridSearch
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.target import Limits, Target
from paredown.testing.tiny import tiny_model
from tests.search.search_fakes import result

METHODS = ("mixed", "gptq")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("aim") / "m"))


def first(limits: Limits, spec: ModelSpec) -> list[str]:
    return [registry.label(aim.strategy) for aim in aims(limits, spec) if aim.is_first]


def build(spec: ModelSpec, limits: Limits, runtime: str = "torch") -> Enumerated:
    target = Target(limits=limits, runtime=runtime)
    return Enumerated.build(spec, target, methods=METHODS, max_steps=1)


def test_the_smallest_of_the_sizes_is_aimed_at(spec: ModelSpec) -> None:
    size = spec.parameters  # 8 bits per weight
    assert aims(Limits(), spec) == ()
    assert first(Limits(size=size), spec) == ["mixed(bpw=8.0)"]
    assert first(Limits(size=size, bpw=9.0), spec) == ["mixed(bpw=8.0)"]
    assert first(Limits(size=size, bpw=7.25), spec) == ["mixed(bpw=7.25)"]
    half = spec.weight_bytes / size
    assert first(Limits(target_ratio=half), spec) == ["mixed(bpw=8.0)"]
    # Never above, by less than a ten-thousandth of a bit.
    (odd,) = first(Limits(size=size + 1), spec)
    assert odd == "mixed(bpw=8.0)"


def test_a_loss_becomes_a_divergence() -> None:
    assert accepted_kl(Limits()) is None
    assert accepted_kl(Limits(max_accuracy_loss=0)) is None
    assert accepted_kl(Limits(kl=0.05)) == 0.05
    assert accepted_kl(Limits(max_accuracy_loss=3)) == pytest.approx(math.log(1.03))
    assert accepted_kl(Limits(max_accuracy_loss="2pt")) == pytest.approx(math.log(1.02))
    assert accepted_kl(Limits(max_accuracy_loss=3, kl=0.01)) == 0.01


def test_less_than_what_is_accepted_is_aimed_at_first(spec: ModelSpec) -> None:
    found = aims(Limits(kl=0.05), spec)
    assert registry.label(found[0].strategy) == "mixed(kl=0.04)"
    assert [aim.is_first for aim in found] == [True, *[False] * (len(found) - 1)]
    assert "KL of 0.04 nats per token" in found[0].reason
    assert "KL <= 0.05 nats/token" in found[0].reason


def test_the_space_has_the_aims_and_nothing_larger(spec: ModelSpec) -> None:
    limits = Limits(size=int(0.6 * spec.weight_bytes))
    space = build(spec, limits)
    labels = [registry.label(s) for s in build(spec, Limits(kl=0.1)).strategies]
    assert labels[0] == "mixed(kl=0.08)"
    assert {"mixed(kl=0.064)", "mixed(kl=0.125)"} <= set(labels[-5:])  # for what follows
    head = registry.label(space.strategies[0])
    assert head == first(limits, spec)[0]
    assert max(map(space.predicted_bytes, space.strategies)) <= int(limits.size or 0)
    assert "gptq(bits=8, group_size=32)" not in map(registry.label, space.strategies)


@pytest.mark.parametrize("runtime", ["openvino", "llama.cpp"])
def test_plans_are_for_the_runtime_of_the_run(spec: ModelSpec, runtime: str) -> None:
    space = build(spec, Limits(size=int(0.9 * spec.weight_bytes)), runtime)
    plans = [s for s in space.strategies if s.steps[0].method == "mixed"]
    assert plans
    assert {s.steps[0].params["runtime"] for s in plans} == {runtime}
    assert space.read("mixed(bpw=9)").steps[0].params["runtime"] == runtime


def test_sizes_that_cannot_be_had_are_refused_with_the_interval(spec: ModelSpec) -> None:
    least, most = choices_of(spec, "torch").interval
    with pytest.raises(ConfigError, match=r"size 10kB: no strategy makes it so small; between"):
        build(spec, Limits(size=10_000))
    with pytest.raises(ConfigError, match="as it is, so nothing has to be made smaller; give less"):
        build(spec, Limits(size=most))
    smallest = 8 * least / spec.parameters
    assert build(spec, Limits(bpw=smallest + 0.5)).strategies


def test_aims_come_before_everything_else(spec: ModelSpec) -> None:
    space = build(spec, Limits(kl=0.1))
    (wanted,) = [
        registry.for_runtime(aim.strategy, "torch")
        for aim in aims(Limits(kl=0.1), spec)
        if aim.is_first
    ]
    start = registry.canonical("gptq(bits=8, group_size=32)")
    policy = policies.create(
        "grid", seed=0, objectives=("quality", "size"), aimed=((wanted, "asked"),),
        start=(start,),
    )  # fmt: skip
    base = result(None, episode=0, perplexity=20.0, size=1e6)
    decision = policy.propose((base,), space, Limits(kl=0.1), budget=Budget(episodes_left=5))
    assert (decision.strategy, decision.policy, decision.reason) == (wanted, "aim", "asked")
    done = result(wanted, episode=1, perplexity=21.0, size=5e5)
    decision = policy.propose((base, done), space, Limits(kl=0.1), budget=Budget(episodes_left=4))
    assert decision.strategy == start
    only = Aimed(first=(), then=GridSearch())
    assert only.propose((base,), space, Limits(), budget=Budget(episodes_left=1)).policy == "grid"


def test_methods_that_make_no_plans_are_bounded_all_the_same(spec: ModelSpec) -> None:
    limits = Limits(size=int(0.7 * spec.weight_bytes))
    space = Enumerated.build(spec, Target(limits=limits), methods=("gptq",), max_steps=1)
    assert {s.steps[0].method for s in space.strategies} == {"gptq"}
