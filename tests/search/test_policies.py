"""What every policy promises, and what each is for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from paredown.analysis.hypervolume import hypervolume
from paredown.analysis.pareto import FloatArray
from paredown.analysis.statistics import paired_bootstrap_ci
from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.search.base import Budget, Policy, View
from paredown.search.enumerated import Enumerated
from paredown.search.policies import bayesian
from paredown.search.policies import registry as policies
from paredown.search.policies.bayesian import Bayesian
from paredown.search.policies.grid import GridSearch
from paredown.search.policies.random import Uniform
from paredown.spec.result import TrialResult
from paredown.spec.run import OBJECTIVES, RunConfig
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits
from tests.search.search_fakes import (
    build,
    failure,
    play,
    proposed,
    result,
    smooth_truth,
    timed,
    use_fakes,
)

BASELINE = result(None, episode=0, perplexity=20.0, size=768e3)
MORE = Budget(episodes_left=10)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


@pytest.fixture
def space() -> Enumerated:
    return build(methods=("round", "cut"), max_steps=2)


@pytest.fixture(params=list(policies.BUILTIN))
def policy(request: pytest.FixtureRequest) -> Policy:
    return policies.create(request.param, seed=3, objectives=OBJECTIVES)


def sometimes_failing(strategy: Strategy, episode: int) -> TrialResult:
    return (
        failure(strategy, episode=episode) if episode % 3 == 1 else smooth_truth(strategy, episode)
    )


def view(history: Sequence[TrialResult], space: Enumerated, *, episodes_left: int = 10) -> View:
    return View(
        history=history, space=space, limits=Limits(), budget=Budget(episodes_left=episodes_left)
    )


# The contract


def test_the_whole_space_is_tried_without_duplicates(policy: Policy, space: Enumerated) -> None:
    results = play(policy, space, episodes=1000, truth=sometimes_failing)
    tried = [r.strategy.hash for r in results if r.strategy is not None]
    assert sorted(tried) == sorted(space.by_hash)
    last = policy.propose(results, space, Limits(), budget=MORE)
    assert (last.action, last.strategy) == ("end", None)
    assert last.reason == f"all {len(space.by_hash)} strategies of the space were tried"


def test_a_run_cut_short_goes_on_as_if_it_had_not_been(policy: Policy, space: Enumerated) -> None:
    whole = play(policy, space, episodes=10, truth=sometimes_failing)
    fresh = policies.create(policy.name, seed=3, objectives=OBJECTIVES)
    for cut in (1, 6):
        resumed = play(fresh, space, episodes=11 - cut, truth=sometimes_failing,
                       history=whole[:cut])  # fmt: skip
        assert proposed(resumed) == proposed(whole)


def test_results_survive_the_experiment_folder(policy: Policy, space: Enumerated) -> None:
    whole = play(policy, space, episodes=8)
    reread = tuple(TrialResult.model_validate_json(r.model_dump_json()) for r in whole)
    first, second = (policy.propose(h, space, Limits(), budget=MORE) for h in (whole, reread))
    assert first == second


def test_a_decision_says_what_why_and_what_to_expect(policy: Policy, space: Enumerated) -> None:
    history = play(policy, space, episodes=7)
    decision = policy.propose(history, space, Limits(), budget=MORE)
    assert decision.strategy is not None
    assert decision.action == registry.kind_of(decision.strategy)
    known = space.expected(decision.strategy)
    assert decision.expected is not None
    assert {name: decision.expected[name] for name in known} == known
    assert decision.policy.partition(":")[0] == policy.name
    assert decision.reason


def test_a_decision_predicts_its_seconds_from_trials_of_its_methods(
    policy: Policy, space: Enumerated
) -> None:
    tried = [s for s in space.strategies if len(s.steps) == 1]
    history = [BASELINE] + [
        timed(smooth_truth(s, n), 100.0 if "round" in str(s) else 10.0, evaluate=5.0)
        for n, s in enumerate(tried, start=1)
    ]
    decision = policy.propose(history, space, Limits(), budget=MORE)
    assert decision.expected is not None
    assert decision.expected["seconds"] == pytest.approx(115.0, rel=0.05)  # all left use both


def test_what_would_take_longer_than_the_time_left_is_not_proposed(
    policy: Policy, space: Enumerated
) -> None:
    by_method = {name: registry.canonical(name) for name in ("round", "cut")}
    history = [
        BASELINE,
        timed(smooth_truth(by_method["round"], 1), 100.0),
        timed(smooth_truth(by_method["cut"], 2), 10.0),
    ]
    budget = Budget(episodes_left=9, seconds_left=50.0)
    for seed in range(5):
        policy = policies.create(policy.name, seed=seed, objectives=OBJECTIVES)
        decision = policy.propose(history, space, Limits(), budget=budget)
        assert decision.strategy is not None
        assert "round" not in str(decision.strategy)
    broke = Budget(episodes_left=9, seconds_left=5.0)
    decision = policy.propose(history, space, Limits(), budget=broke)
    assert decision.action == "end"
    assert decision.reason == (
        "the 5 s left are too few for any strategy: the shortest is expected to take 10 s"
    )


def test_a_batch_is_made_of_different_untried_strategies(policy: Policy, space: Enumerated) -> None:
    history = play(policy, space, episodes=5, truth=sometimes_failing)
    batch = policy.propose_batch(history, space, Limits(), budget=MORE, count=4)
    again = policy.propose_batch(history, space, Limits(), budget=MORE, count=4)
    assert batch == again
    hashes = [d.strategy.hash for d in batch if d.strategy is not None]
    assert len(set(hashes)) == 4
    assert not set(hashes) & {r.strategy.hash for r in history if r.strategy is not None}
    more = policy.propose_batch(history, space, Limits(), budget=MORE, count=100, pending=batch[:2])
    assert len(more) == MORE.episodes_left
    assert not {d.strategy.hash for d in more if d.strategy is not None} & set(hashes[:2])


def test_a_batch_ends_with_the_space(policy: Policy) -> None:
    small = build(methods=("cut",))
    whole = policy.propose_batch((BASELINE,), small, Limits(), budget=MORE, count=9)
    assert {d.strategy.hash for d in whole if d.strategy is not None} == set(small.by_hash)
    none = policy.propose_batch((BASELINE,), small, Limits(), budget=MORE, count=9, pending=whole)
    assert [d.action for d in none] == ["end"]


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(episodes_left=0), "all episodes are used"),
        (Budget(episodes_left=1, seconds_left=0.0), "the time budget is used up"),
    ],
)
def test_a_used_up_budget_ends_the_search(
    policy: Policy, space: Enumerated, budget: Budget, reason: str
) -> None:
    decision = policy.propose((BASELINE,), space, Limits(), budget=budget)
    assert (decision.action, decision.reason) == ("end", reason)


def test_trials_of_another_space_do_not_disturb(policy: Policy, space: Enumerated) -> None:
    other = play(policy, build(methods=("trim", "mend")), episodes=6)
    assert len(play(policy, space, episodes=3, history=other)) == len(other) + 3


def test_every_seed_is_a_seed(space: Enumerated) -> None:
    seeds = [
        view([BASELINE] * n, space).seed(seed, salt)
        for seed in (-1, 0, 1, 2**40)
        for n in (0, 1)
        for salt in ("a", "b")
    ]
    assert len(set(seeds)) == 16
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_unknown_policies_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"called 'bayes'; did you mean 'bayesian'\?"):
        policies.create("bayes", seed=0, objectives=OBJECTIVES)


def test_every_policy_can_be_asked_for_and_tpe_is_the_old_name_of_bayesian() -> None:
    for name in policies.BUILTIN:
        assert RunConfig.model_validate({"model": "m", "policy": name}).policy == name
    assert RunConfig(model="m").policy == "portfolio"
    assert RunConfig.model_validate({"model": "m", "policy": "tpe"}).policy == "bayesian"
    with pytest.raises(ValueError, match="portfolio"):
        RunConfig.model_validate({"model": "m", "policy": "simulated"})


def test_optuna_and_torch_are_not_imported_before_they_are_needed() -> None:
    code = (
        "import sys; from paredown.search.policies import registry as policies; "
        "[policies.create(n, seed=0, objectives=('size',)) for n in policies.BUILTIN]; "
        "assert not {'optuna', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The opening


def test_the_opening_takes_the_default_of_every_method_kinds_in_turns() -> None:
    results = play(Bayesian(seed=0), build(), episodes=15)
    assert proposed(results)[:5] == ["round", "cut", "mend", "solve", "trim"]


def test_the_opening_takes_at_most_a_third_of_the_run() -> None:
    space = build()
    first = view([BASELINE], space, episodes_left=6)
    assert registry.label(first.opening() or space.strategies[-1]) == "round"
    tried = [smooth_truth(registry.canonical(name), n) for n, name in enumerate(("round", "cut"))]
    assert view([BASELINE, *tried], space, episodes_left=4).opening() is None
    assert view([BASELINE, *tried], space, episodes_left=5).opening() is not None


def test_the_opening_skips_methods_that_were_seen() -> None:
    space = build()
    seen = [smooth_truth(registry.canonical("cut(ratio=0.5) > round(bits=8)"), 1)]
    chosen = view([BASELINE, *seen], space, episodes_left=20).opening()
    assert chosen == registry.canonical("mend")


def test_an_opening_that_is_spread_takes_every_third_trial_until_all_were_seen() -> None:
    space, history, opened = build(), [BASELINE], []
    for n in range(1, 20):
        first = view(history, space).opening(spread=True)
        opened += [] if first is None else [(n, str(first))]
        history.append(smooth_truth(first or registry.canonical("round(bits=8)"), n))
    names = ("round", "cut", "mend", "solve", "trim")
    assert opened == [(1 + 3 * i, str(registry.canonical(n))) for i, n in enumerate(names)]


def test_nothing_is_opened_twice() -> None:
    first = replace(view([BASELINE], build()), opened=True)
    assert first.opening() is None
    assert first.opening(spread=True) is None


# GridSearch and random


def test_the_grid_follows_the_order_of_the_space(space: Enumerated) -> None:
    results = play(GridSearch(), space, episodes=1000)
    assert proposed(results) == [registry.label(s) for s in space.strategies]


@pytest.mark.parametrize("name", ["random", "bayesian", "evolutionary", "portfolio"])
def test_other_seeds_give_other_sequences(name: str) -> None:
    space = build()
    runs = [
        proposed(play(policies.create(name, seed=seed, objectives=OBJECTIVES), space, episodes=12))
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_random_is_uniform(space: Enumerated) -> None:
    first = [
        Uniform(seed=seed).propose((BASELINE,), space, Limits(), budget=MORE).strategy
        for seed in range(2000)
    ]
    counts = np.array([first.count(strategy) for strategy in space.strategies])
    expected = 2000 / len(counts)
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 2 * len(counts)  # beyond the 99.9 % point of len(counts) - 1 degrees


# Bayesian


REFERENCE = np.log([4.0, 1.0])  # four times the perplexity, the size of the baseline


def log_costs(results: Sequence[TrialResult]) -> FloatArray:
    """Perplexity and size, over the baseline's."""
    values = [
        [(r.value("perplexity") or 0) / 20, (r.value("size") or 0) / 768e3]
        for r in results
        if r.strategy is not None
    ]
    return np.log(values)


def test_bayesian_covers_more_than_random_with_the_same_trials() -> None:
    space = build(max_steps=3)

    def covered(policy: Policy) -> float:
        return hypervolume(log_costs(play(policy, space, episodes=14)), REFERENCE)

    ours = [covered(Bayesian(seed=s, objectives=("quality", "size"))) for s in range(8)]
    theirs = [covered(Uniform(seed=s)) for s in range(8)]
    gain = paired_bootstrap_ci(ours, theirs, statistic=lambda a, b: float((a - b).mean()), seed=0)
    best = hypervolume(log_costs([smooth_truth(s, 1) for s in space.strategies]), REFERENCE)
    assert gain.low > 0.1 * best
    assert np.mean(ours) > 0.85 * best


def test_bayesian_avoids_what_resembles_failures() -> None:
    space = build(methods=("round", "cut"), max_steps=2)

    def truth(strategy: Strategy, episode: int) -> TrialResult:
        if "round" in str(strategy):
            return failure(strategy, episode=episode)
        return smooth_truth(strategy, episode)

    tried = [proposed(play(Bayesian(seed=s), space, episodes=4, truth=truth)) for s in range(10)]
    assert np.mean(["round" in label for run in tried for label in run[2:]]) < 0.5


def test_bayesian_takes_a_failure_for_worse_than_a_broken_limit() -> None:
    space = build(methods=("round", "solve", "cut"))
    history = [BASELINE] + [
        failure(strategy, episode=episode)
        if "round" in str(strategy)
        else result(strategy, episode=episode, perplexity=40.0, size=4e5)
        for episode, strategy in enumerate(space.strategies[:8], start=1)
    ]
    limits = Limits(max_accuracy_loss=10)
    policies = [Bayesian(seed=seed, objectives=("size",)) for seed in range(15)]
    drawn = [p.propose(history, space, limits, budget=MORE).strategy for p in policies]
    assert np.mean(["round" in str(strategy) for strategy in drawn]) < 0.2


def test_every_policy_survives_that_everything_fails(policy: Policy, space: Enumerated) -> None:
    results = play(policy, space, episodes=1000, truth=lambda s, n: failure(s, episode=n))
    assert len(results) == len(space.by_hash) + 1
    no_baseline = (failure(space.strategies[0], episode=1),)
    assert policy.propose(no_baseline, space, Limits(), budget=MORE).strategy is not None


def test_bayesian_falls_back_to_the_grid(
    space: Enumerated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bayesian, "MAX_DRAWS", 0)
    history = play(GridSearch(), space, episodes=6)
    decision = Bayesian(seed=0).propose(history, space, Limits(), budget=Budget(episodes_left=1))
    assert decision.strategy == space.strategies[6]
    assert "known strategies" in decision.reason


def test_bayesian_learns_from_the_objectives_that_all_trials_have(space: Enumerated) -> None:
    history = list(play(Bayesian(seed=0), space, episodes=4))
    decision = Bayesian(seed=0).propose(history, space, Limits(), budget=MORE)
    assert decision.reason.endswith("perplexity, size, decode_latency, peak_memory")
    kept = tuple(m for m in history[2].measurements if m.name != "peak_memory")
    history[2] = history[2].model_copy(update={"measurements": kept})
    decision = Bayesian(seed=0).propose(history, space, Limits(), budget=MORE)
    assert decision.reason.endswith("4 trials on perplexity, size, decode_latency")


def test_of_draws_that_are_equally_good_the_cheapest_is_tried(
    space: Enumerated, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [registry.canonical(name) for name in ("round(bits=8)", "cut(ratio=0.125)")]
    monkeypatch.setattr(bayesian, "_draw", lambda *args, **options: drawn)
    tried = [registry.canonical("round"), registry.canonical("cut")]
    for price in (1.0, 100.0):
        history = [
            BASELINE,
            timed(smooth_truth(tried[0], 1), 10.0),
            timed(smooth_truth(tried[1], 2), price),
        ]
        decision = Bayesian(seed=0).propose(
            history, space, Limits(), budget=Budget(episodes_left=2)
        )
        assert decision.strategy == drawn[1 if price < 10 else 0]


def test_bayesian_turns_away_from_broken_limits() -> None:
    space = build(methods=("round", "solve", "cut"))
    tried = [space.strategies[place] for place in range(8)]
    history = [BASELINE] + [
        result(strategy, episode=episode, perplexity=40.0, size=1e5)  # small, and no longer good
        if "round" in str(strategy)
        else result(strategy, episode=episode, perplexity=21.0, size=4e5)
        for episode, strategy in enumerate(tried, start=1)
    ]

    def share_of_round(limits: Limits) -> float:
        policies = [Bayesian(seed=seed, objectives=("size",)) for seed in range(15)]
        drawn = [p.propose(history, space, limits, budget=MORE).strategy for p in policies]
        return float(np.mean(["round" in str(strategy) for strategy in drawn]))

    assert share_of_round(Limits()) > 0.6
    assert share_of_round(Limits(max_accuracy_loss=10)) < 0.2


def test_optuna_keeps_its_log_level(space: Enumerated) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        play(Bayesian(seed=0), space, episodes=5)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(before)
