"""What every policy promises, and what each is for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from paredown.analysis.hypervolume import hypervolume
from paredown.analysis.pareto import FloatArray
from paredown.analysis.statistics import paired_bootstrap_ci
from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.search import policies, tpe
from paredown.search.base import Budget, Policy, call_seed
from paredown.search.grid import Grid
from paredown.search.random import Uniform
from paredown.search.space import Space
from paredown.search.tpe import Tpe, violations
from paredown.spec.result import TrialResult
from paredown.spec.run import OBJECTIVES
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits
from tests.search.search_fakes import (
    build,
    failure,
    play,
    proposed,
    result,
    smooth_truth,
    use_fakes,
)

BASELINE = result(None, episode=0, perplexity=20.0, size=768e3)
MORE = Budget(episodes_left=10)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


@pytest.fixture
def space() -> Space:
    return build(methods=("round", "solve", "cut"), max_steps=2)


@pytest.fixture(params=list(policies.BUILTIN))
def policy(request: pytest.FixtureRequest) -> Policy:
    return policies.create(request.param, seed=3, objectives=OBJECTIVES)


def sometimes_failing(strategy: Strategy, episode: int) -> TrialResult:
    return (
        failure(strategy, episode=episode) if episode % 3 == 1 else smooth_truth(strategy, episode)
    )


# The contract


def test_the_whole_space_is_tried_without_duplicates(policy: Policy, space: Space) -> None:
    results = play(policy, space, episodes=1000, truth=sometimes_failing)
    tried = [r.strategy.hash for r in results if r.strategy is not None]
    assert sorted(tried) == sorted(space.by_hash)
    last = policy.propose(results, space, Limits(), budget=MORE)
    assert (last.action, last.strategy) == ("end", None)
    assert last.reason == f"all {len(space.by_hash)} strategies of the space were tried"


def test_a_run_cut_short_goes_on_as_if_it_had_not_been(policy: Policy, space: Space) -> None:
    whole = play(policy, space, episodes=16, truth=sometimes_failing)
    fresh = policies.create(policy.name, seed=3, objectives=OBJECTIVES)
    for cut in (1, 5, 12):
        resumed = play(fresh, space, episodes=17 - cut, truth=sometimes_failing,
                       history=whole[:cut])  # fmt: skip
        assert proposed(resumed) == proposed(whole)


def test_results_survive_the_experiment_folder(policy: Policy, space: Space) -> None:
    whole = play(policy, space, episodes=8)
    reread = tuple(TrialResult.model_validate_json(r.model_dump_json()) for r in whole)
    first, second = (policy.propose(h, space, Limits(), budget=MORE) for h in (whole, reread))
    assert first == second


def test_a_decision_says_what_why_and_what_to_expect(policy: Policy, space: Space) -> None:
    history = play(policy, space, episodes=7)
    decision = policy.propose(history, space, Limits(), budget=MORE)
    assert decision.strategy is not None
    assert decision.action == registry.kind_of(decision.strategy)
    assert decision.expected == space.expected(decision.strategy)
    assert decision.policy == policy.name
    assert decision.reason


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(episodes_left=0), "all episodes are used"),
        (Budget(episodes_left=1, seconds_left=0.0), "the time budget is used up"),
    ],
)
def test_a_used_up_budget_ends_the_search(
    policy: Policy, space: Space, budget: Budget, reason: str
) -> None:
    decision = policy.propose((BASELINE,), space, Limits(), budget=budget)
    assert (decision.action, decision.reason) == ("end", reason)


def test_trials_of_another_space_do_not_disturb(policy: Policy, space: Space) -> None:
    other = play(policy, build(methods=("trim", "mend")), episodes=6)
    assert len(play(policy, space, episodes=3, history=other)) == len(other) + 3


def test_every_seed_is_a_seed() -> None:
    seeds = [call_seed(seed, [BASELINE] * n) for seed in (-1, 0, 1, 2**40) for n in (0, 1)]
    assert len(set(seeds)) == 8
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_unknown_policies_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"called 'tpo'; did you mean 'tpe'\?"):
        policies.create("tpo", seed=0, objectives=OBJECTIVES)


def test_optuna_and_torch_are_not_imported_before_they_are_needed() -> None:
    code = (
        "import sys; from paredown.search import policies; "
        "[policies.create(n, seed=0, objectives=('size',)) for n in policies.BUILTIN]; "
        "assert not {'optuna', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Grid and random


def test_the_grid_follows_the_order_of_the_space(space: Space) -> None:
    results = play(Grid(), space, episodes=1000)
    assert proposed(results) == [registry.label(s) for s in space.strategies]


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_other_seeds_give_other_sequences(name: str, space: Space) -> None:
    runs = [
        proposed(play(policies.create(name, seed=seed, objectives=OBJECTIVES), space, episodes=12))
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_random_is_uniform(space: Space) -> None:
    first = [
        Uniform(seed=seed).propose((BASELINE,), space, Limits(), budget=MORE).strategy
        for seed in range(2000)
    ]
    counts = np.array([first.count(strategy) for strategy in space.strategies])
    expected = 2000 / len(counts)
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 2 * len(counts)  # beyond the 99.9 % point of len(counts) - 1 degrees


# TPE


def test_tpe_begins_with_every_default(space: Space) -> None:
    results = play(Tpe(seed=0), space, episodes=3)
    assert proposed(results) == ["round", "solve", "cut"]


def test_tpe_start_up_can_be_set(space: Space) -> None:
    grid = [registry.label(s) for s in space.strategies]
    assert proposed(play(Tpe(seed=0, n_startup=7), space, episodes=7)) == grid[:7]
    assert len(play(Tpe(seed=0, n_startup=0), space, episodes=3)) == 4


REFERENCE = np.log([4.0, 1.0])  # four times the perplexity, the size of the baseline


def log_costs(results: Sequence[TrialResult]) -> FloatArray:
    """Perplexity and size, over the baseline's."""
    values = [
        [(r.value("perplexity") or 0) / 20, (r.value("size") or 0) / 768e3]
        for r in results
        if r.strategy is not None
    ]
    return np.log(values)


def test_tpe_covers_more_than_random_with_the_same_trials() -> None:
    space = build(max_steps=3)

    def covered(policy: Policy) -> float:
        return hypervolume(log_costs(play(policy, space, episodes=14)), REFERENCE)

    ours = [covered(Tpe(seed=s, objectives=("quality", "size"))) for s in range(8)]
    theirs = [covered(Uniform(seed=s)) for s in range(8)]
    gain = paired_bootstrap_ci(ours, theirs, statistic=lambda a, b: float((a - b).mean()), seed=0)
    best = hypervolume(log_costs([smooth_truth(s, 1) for s in space.strategies]), REFERENCE)
    assert gain.low > 0.1 * best
    assert np.mean(ours) > 0.85 * best


def test_tpe_finds_a_known_best_sooner_than_random() -> None:
    space = build(max_steps=3)
    known = sorted(smooth_truth(s, 1).value("perplexity") or 0 for s in space.strategies)

    def trials_needed(policy: Policy) -> int:
        """Until one of the best three of all strategies is found."""
        results = play(policy, space, episodes=20)
        found = [(r.value("perplexity") or 0) <= known[2] for r in results[1:]]
        return found.index(True) + 1 if True in found else 21

    ours = [trials_needed(Tpe(seed=s, objectives=("quality",))) for s in range(8)]
    theirs = [trials_needed(Uniform(seed=s)) for s in range(8)]
    gain = paired_bootstrap_ci(theirs, ours, statistic=lambda a, b: float((a - b).mean()), seed=0)
    assert gain.low > 0


def test_tpe_avoids_what_resembles_failures() -> None:
    space = build(methods=("round", "cut"), max_steps=2)

    def truth(strategy: Strategy, episode: int) -> TrialResult:
        if "round" in str(strategy):
            return failure(strategy, episode=episode)
        return smooth_truth(strategy, episode)

    tried = [proposed(play(Tpe(seed=s), space, episodes=4, truth=truth)) for s in range(10)]
    assert np.mean(["round" in label for run in tried for label in run[2:]]) < 0.5


def test_tpe_takes_a_failure_for_worse_than_a_broken_limit(space: Space) -> None:
    history = [BASELINE] + [
        failure(strategy, episode=episode)
        if "round" in str(strategy)
        else result(strategy, episode=episode, perplexity=40.0, size=4e5)
        for episode, strategy in enumerate(space.strategies[:8], start=1)
    ]
    limits = Limits(max_accuracy_loss=10)
    policies = [Tpe(seed=seed, objectives=("size",)) for seed in range(30)]
    drawn = [p.propose(history, space, limits, budget=MORE).strategy for p in policies]
    assert np.mean(["round" in str(strategy) for strategy in drawn]) < 0.2


def test_scores_are_logarithms_over_the_baseline(space: Space) -> None:
    small, other, broken = space.strategies[:3]
    history = [
        BASELINE,
        result(small, episode=1, perplexity=40.0, size=192e3),
        result(other, episode=2, perplexity=10.0, size=384e3),
        failure(broken, episode=3),
    ]
    names = ("perplexity", "size")
    costs = [score.costs for score in tpe._scores(history, names, Limits())]
    assert costs == [
        pytest.approx(np.log([2, 1 / 4])),
        pytest.approx(np.log([1 / 2, 1 / 2])),
        pytest.approx(np.log([2, 1])),  # the worst seen of each, the baseline's included
    ]
    without = [score.costs for score in tpe._scores(history[1:], names, Limits(target_ratio=9))]
    assert without[1] == pytest.approx(np.log([1 / 4, 2]))


def test_tpe_survives_that_everything_fails(space: Space) -> None:
    results = play(Tpe(seed=0), space, episodes=1000,
                   truth=lambda s, n: failure(s, episode=n))  # fmt: skip
    assert len(results) == len(space.by_hash) + 1
    no_baseline = (failure(space.strategies[0], episode=1),)
    decision = Tpe(seed=0, n_startup=0).propose(no_baseline, space, Limits(), budget=MORE)
    assert decision.strategy == space.strategies[1]
    assert "nothing to learn from" in decision.reason


def test_tpe_falls_back_to_the_grid(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpe, "MAX_DRAWS", 0)
    history = play(Tpe(seed=0), space, episodes=6)
    assert proposed(history) == [registry.label(s) for s in space.strategies[:6]]
    decision = Tpe(seed=0).propose(history, space, Limits(), budget=MORE)
    assert "known strategies" in decision.reason


def test_tpe_learns_from_the_objectives_that_all_trials_have(space: Space) -> None:
    history = list(play(Tpe(seed=0), space, episodes=4))
    decision = Tpe(seed=0).propose(history, space, Limits(), budget=MORE)
    assert decision.reason.endswith("perplexity, size, decode_latency, peak_memory")
    kept = tuple(m for m in history[2].measurements if m.name != "peak_memory")
    history[2] = history[2].model_copy(update={"measurements": kept})
    decision = Tpe(seed=0).propose(history, space, Limits(), budget=MORE)
    assert decision.reason.endswith("4 trials on perplexity, size, decode_latency")


def test_tpe_turns_away_from_broken_limits(space: Space) -> None:
    tried = [space.strategies[place] for place in range(8)]
    history = [BASELINE] + [
        result(strategy, episode=episode, perplexity=40.0, size=1e5)  # small, and no longer good
        if "round" in str(strategy)
        else result(strategy, episode=episode, perplexity=21.0, size=4e5)
        for episode, strategy in enumerate(tried, start=1)
    ]

    def share_of_round(limits: Limits) -> float:
        policies = [Tpe(seed=seed, objectives=("size",)) for seed in range(30)]
        drawn = [p.propose(history, space, limits, budget=MORE).strategy for p in policies]
        return float(np.mean(["round" in str(strategy) for strategy in drawn]))

    assert share_of_round(Limits()) > 0.6
    assert share_of_round(Limits(max_accuracy_loss=10)) < 0.2


def test_violations_hand_worked() -> None:
    limits = Limits(max_memory_gb=0.0002, max_accuracy_loss=5, min_speedup=2, target_ratio=8)
    seen = result(registry.canonical("round"), episode=1, perplexity=22.0, size=192e3, ms=8.0)
    assert violations(seen, BASELINE, limits) == pytest.approx(
        {
            "max_memory_gb": 292 / 200 - 1,
            "max_accuracy_loss": 0.05,
            "min_speedup": 1 - 1.25 / 2,
            "target_ratio": 0.5,
        }
    )
    assert violations(seen, BASELINE, Limits()) == {}
    bare = seen.model_copy(update={"measurements": ()})
    assert violations(bare, BASELINE, limits) == {}


def test_violations_agree_with_the_limits_in_words() -> None:
    rng = np.random.default_rng(0)
    limits = Limits(max_memory_gb=3e-4, max_accuracy_loss=20, min_speedup=1.2, target_ratio=3)
    for _ in range(100):
        seen = result(registry.canonical("round"), episode=1, perplexity=rng.uniform(18, 30),
                      size=rng.uniform(1e5, 5e5), ms=rng.uniform(5, 12))  # fmt: skip
        broken = [v for v in violations(seen, BASELINE, limits).values() if v > 0]
        assert len(broken) == len(limits.unmet(seen, BASELINE))


def test_optuna_keeps_its_log_level(space: Space) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        play(Tpe(seed=0), space, episodes=5)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(before)
