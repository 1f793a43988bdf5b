"""The space: its order, what it leaves out and why, and limits nobody can meet."""

from __future__ import annotations

import math

import pytest

from paredown.errors import ConfigError, MissingExtraError, StrategyError
from paredown.methods import registry
from paredown.search import enumerated as space_module
from paredown.search.enumerated import Enumerated
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Limits, Target
from tests.search.search_fakes import METHODS, WORKING, build, model_spec, use_fakes


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def labels(space: Enumerated) -> list[str]:
    return [registry.label(strategy) for strategy in space.strategies]


def test_defaults_come_first_then_their_neighbours_in_turns() -> None:
    assert labels(build())[:9] == [
        "round", "solve", "cut", "trim", "mend",
        "round(bits=8)", "solve(bits=8)", "cut(ratio=0.125)", "trim(ratio=0.125)",
    ]  # fmt: skip


def test_single_methods_come_before_pipelines_and_short_ones_before_long_ones() -> None:
    lengths = [len(strategy.steps) for strategy in build(max_steps=3).strategies]
    assert lengths == sorted(lengths)
    assert set(lengths) == {1, 2, 3}


def test_one_method_alone_is_taken_by_distance_from_its_default() -> None:
    # Places in the domains (bits 4, 8, 2; group 32, 16, 64): sums 0, 1, 1, 2, 2, 3, without 64.
    assert labels(build(methods=("round",), max_steps=1)) == [
        "round", "round(bits=8)", "round(group_size=16)",
        "round(bits=2)", "round(bits=8, group_size=16)", "round(bits=2, group_size=16)",
    ]  # fmt: skip


def test_pipelines_prune_then_tune_then_quantize() -> None:
    order = {"cut": 0, "trim": 0, "mend": 1, "round": 2, "solve": 2}
    for strategy in build(max_steps=4).strategies:
        stages = [order[step.method] for step in strategy.steps]
        assert stages == sorted(set(stages))


def test_pipelines_combine_the_first_two_values_only() -> None:
    space = build(methods=("cut", "round"))
    pipelines = [s for s in space.strategies if len(s.steps) == 2]
    assert len(pipelines) == 2 * 2 * 2
    assert {s.steps[0].params["ratio"] for s in pipelines} == {0.25, 0.125}


def test_strategies_are_canonical_and_none_comes_twice() -> None:
    space = build(max_steps=3)
    assert len(set(labels(space))) == len(space.strategies)
    for key, strategy in space.by_hash.items():
        assert strategy == registry.canonical(strategy)
        assert key == strategy.hash


def test_named_methods_restrict_and_order_the_space() -> None:
    assert labels(build(methods=("trim", "round", "trim"), max_steps=1))[:2] == ["trim", "round"]


def test_caps_keep_what_is_nearest_to_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_module, "MAX_SINGLE", 2)
    monkeypatch.setattr(space_module, "MAX_PIPELINE", 1)
    assert labels(build(methods=("cut", "round"))) == [
        "cut", "round", "cut(ratio=0.125)", "round(bits=8)", "cut > round",
    ]  # fmt: skip


def test_by_distance_yields_every_place_once_in_order() -> None:
    ranks = list(space_module._by_distance([3, 1, 2, 4]))
    assert len(ranks) == len(set(ranks)) == 24
    assert [sum(rank) for rank in ranks] == sorted(sum(rank) for rank in ranks)
    assert list(space_module._by_distance([])) == [()]


def test_what_cannot_run_is_refused_with_its_reason() -> None:
    space = build()
    assert "96 input features do not divide" in space.refused["round(group_size=64)"]
    assert "nothing to do" in space.refused["same"]
    assert "pip install 'paredown[exotic]'" in space.refused["exotic"]
    assert {step.method for s in space.strategies for step in s.steps} == set(WORKING)


def test_predictions_are_kept() -> None:
    space = build()
    strategy = registry.canonical("cut > round")
    assert space.sizes[strategy.hash] == 768_000 * 0.75 / 2
    assert space.expected(strategy) == {
        "size": 288_000.0, "compression_ratio": pytest.approx(8 / 3),
    }  # fmt: skip


def test_a_baseline_of_other_size_decides_the_ratio() -> None:
    assert build(baseline_bytes=384_000).ratio(registry.canonical("round")) == 1.0


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(StrategyError, match=r"methods: 'rond' is unknown; did you mean 'round'\?"):
        build(methods=("rond",))


def test_a_named_method_without_its_library_is_an_error() -> None:
    with pytest.raises(MissingExtraError, match="exotic"):
        build(methods=("round", "exotic"))


def test_a_named_method_that_cannot_run_is_an_error() -> None:
    with pytest.raises(StrategyError, match="same cannot run on this model: same: nothing to do"):
        build(methods=("round", "same"))


def test_no_method_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BUILTIN", {"same": METHODS["same"]})
    with pytest.raises(ConfigError, match="no strategy can run on this model: same: same: nothing"):
        build()
    monkeypatch.setattr(registry, "BUILTIN", {})
    with pytest.raises(ConfigError, match="there are no methods"):
        build()


@pytest.mark.parametrize("ratio", [1.5, 2.0, 4.0])
def test_what_misses_the_target_ratio_is_not_proposed(ratio: float) -> None:
    space, everything = build(Limits(target_ratio=ratio)), build()
    expected = [s for s in everything.strategies if everything.ratio(s) >= ratio]
    assert list(space.strategies) == expected
    assert 0 < len(expected) < len(everything.strategies)
    assert space.refused["trim"] == f"predicted ratio 1.33x < {ratio:g}x"
    assert set(space.sizes) == set(space.by_hash)


def test_what_does_not_fit_is_not_proposed() -> None:
    space = build(Limits(max_memory_gb=0.000384))
    assert max(space.sizes.values()) == 384_000
    assert space.refused["trim"] == "weights alone take 0.00 GB > 0.000384 GB"


def test_limits_that_need_a_measurement_leave_the_space_alone() -> None:
    limits = Limits(max_accuracy_loss=0.0, min_speedup=100.0)
    assert build(limits).by_hash == build().by_hash


def test_a_ratio_nobody_reaches_names_the_nearest() -> None:
    message = r"no strategy reaches 9x; the smallest is round\(bits=2\) at 4x;"
    with pytest.raises(ConfigError, match=message):
        build(Limits(target_ratio=9))


def test_a_memory_nobody_fits_names_the_nearest() -> None:
    message = r"fits into 1e-06 GB; the smallest is round\(bits=2\), .* take 0.000192 GB"
    with pytest.raises(ConfigError, match=message):
        build(Limits(max_memory_gb=1e-6))


def test_the_nearest_that_is_named_can_be_asked_for() -> None:
    # cut(ratio=0.125) alone: ratio 8/7 = 1.142857..., which must not be shown as 1.143.
    with pytest.raises(ConfigError, match=r"mend at 1x") as found:
        build(Limits(target_ratio=1.14), methods=("mend",))
    assert "1.14x" in str(found.value)
    with pytest.raises(ConfigError, match=r"at 1.99x"):
        build(Limits(target_ratio=9), methods=("cut",), baseline_bytes=767_000)


@pytest.mark.parametrize("value", [0.001924, 1.0, 9.999, 12345.6])
def test_rounding_up_never_goes_below(value: float) -> None:
    rounded = space_module._round_up(value)
    assert value <= rounded <= value * 1.01
    assert math.isclose(rounded, float(f"{rounded:.3g}"))


def test_predictions_follow_the_whole_pipeline() -> None:
    target = Target()
    after = registry.check(
        registry.canonical(parse_strategy("cut(ratio=0.5) > round(bits=2)")), model_spec(), target
    )
    assert after.weight_bytes == 768_000 // 8
