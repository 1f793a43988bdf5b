"""The scripted advisors of `benchmarks/search_advisors.py`, through the whole road of an LLM."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from paredown.judge.hypervolume import covered
from paredown.search.base import Budget
from paredown.search.enumerated import Enumerated
from paredown.search.lead import STRIKES
from paredown.search.policies import registry as policies
from paredown.search.policies.portfolio import ADVISOR_PROMISE, Arm, Portfolio
from paredown.search.policies.random import Uniform
from paredown.search.replay import Table, whole
from paredown.spec.result import TrialResult
from paredown.spec.run import LlmConfig, Objective
from paredown.spec.target import Limits
from tests.search.search_fakes import build, model_spec, play, result, smooth_truth, use_fakes

CAP = LlmConfig().share
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


@pytest.fixture
def advisors(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sys.modules.pop("search_advisors", None)
    import search_advisors

    return search_advisors


def _table(space: Enumerated) -> Table:
    trials = [smooth_truth(s, n) for n, s in enumerate(space.strategies, start=1)]
    return Table(
        about={},
        baseline=result(None, episode=0, perplexity=20.0, size=768e3),
        by_hash={t.strategy.hash: t for t in trials if t.strategy is not None},
        predicted_bytes=space.sizes,
    )


def _run(advisors: Any, name: str, folder: Path) -> tuple[Portfolio, tuple[TrialResult, ...]]:
    space = build(max_steps=2)
    policy = advisors.advisor_policy(
        advisors.advisor(name, _table(space), seed=0), seed=0, spec=model_spec(), folder=folder
    )
    portfolio = Portfolio(
        objectives=("quality", "size"),
        arms=(
            Arm(policy=Uniform(seed=0)),
            Arm(policy=policy, cap=CAP, promise=ADVISOR_PROMISE),
        ),
    )
    return portfolio, play(portfolio, space, episodes=30)


@pytest.mark.parametrize("name", ["expert", "greedy", "random", "fool", "constant", "malformed"])
def test_no_advisor_gets_more_than_its_share_or_ends_the_run(
    advisors: Any, name: str, tmp_path: Path
) -> None:
    portfolio, results = _run(advisors, name, tmp_path)
    tried = [r.proposed_by for r in results[1:]]
    assert len(tried) == 30
    count = tried.count("portfolio:llm")
    assert count <= CAP * 30
    if name in {"expert", "greedy", "fool"}:
        assert count >= 1
    if name == "malformed":
        assert count == 0
        assert portfolio.strikes["llm"] == STRIKES


def test_the_greedy_one_takes_the_candidate_that_should_widen_the_front_most(
    advisors: Any,
) -> None:
    question = (
        "RESULTS (strategy | ...)\n2 trials, 2 finished\n"
        "front: round | 1.10 | 2.00 | 1.00 | 10.0 | ok\n\n"
        "UNTRIED CANDIDATES, as expected\n"
        "cut > round(bits=2) | 3.900 | 5.00 | ?\n"
        "round(bits=2) | 1.200 | 3.90 | ?\n"
        "round(bits=8) | 1.050 | 1.90 | ?\n\n"
        "LEARNED FROM EARLIER EXPERIMENTS\nx | 1.0 | 8.00"
    )
    assert '"strategy": "round(bits=2)"' in advisors.greedy(question, None, 0)
    priced = question.replace(
        "round(bits=8) | 1.050 | 1.90 | ?", "round(bits=6) | 1.070 | 2.60 | ? | 5% | 2"
    ).replace("3.90 | ?", "3.90 | ? | 5% | 900")
    assert '"strategy": "round(bits=2)"' in advisors.greedy(priced, None, 0)
    assert '"strategy": "round(bits=6)"' in advisors.thrifty(priced, None, 0)
    before = question.replace(" | 3.900", "").replace(" | 1.200", "").replace(" | 1.050", "")
    before = before.replace(" | ?", "")
    assert '"strategy": "cut > round(bits=2)"' in advisors.greedy(before, None, 0)


def test_recordings_are_played_in_turn(advisors: Any, tmp_path: Path) -> None:
    file = tmp_path / "answers.json"
    file.write_text('{"runs": [["a", "b"], ["c"]]}')
    first, second = (advisors.recorded(file, seed) for seed in (2, 3))
    assert [first("", None, n) for n in range(3)] == ["a", "b", "a"]
    assert second("", None, 5) == "c"


def test_an_advisor_arm_is_asked_early_enough_to_show_what_it_is_worth(
    advisors: Any, tmp_path: Path
) -> None:
    space = build(max_steps=2)
    policy = advisors.advisor_policy(
        advisors.advisor("greedy", _table(space), seed=0), seed=0, spec=model_spec(),
        folder=tmp_path,
    )  # fmt: skip
    whole = Portfolio.create(
        seed=0,
        objectives=("quality", "size"),
        extra_arms=(Arm(policy=policy, cap=CAP, promise=ADVISOR_PROMISE),),
    )
    results = play(whole, space, episodes=15)
    assert "portfolio:llm" in [r.proposed_by for r in results]
    assert whole.propose(results, space, Limits(), budget=Budget(episodes_left=1)).strategy


PAIR: tuple[Objective, ...] = ("quality", "size")


def _led(advisors: Any, name: str, folder: Path) -> tuple[TrialResult, ...]:
    space = build(max_steps=2)
    leader = advisors.advisor_policy(
        advisors.advisor(name, _table(space), seed=0), seed=0, spec=model_spec(), folder=folder,
        share=1.0,
    )  # fmt: skip
    policy = policies.create("portfolio", seed=0, objectives=PAIR, leader=leader)
    return play(policy, space, episodes=12)


def test_a_leader_decides_everything_and_what_it_knows_is_what_it_brings(
    advisors: Any, tmp_path: Path
) -> None:
    limits = Limits()
    brought = {}
    for name in ("expert", "fool"):
        results = _led(advisors, name, tmp_path)
        by = [r.proposed_by for r in results[1:]]
        if name == "fool":
            assert set(by) == {"lead:llm"}
        brought[name] = covered(results[:6], PAIR, limits)
        assert by[:5] == ["lead:llm"] * 5
    best = whole(_table(build(max_steps=2)), PAIR, limits)
    assert brought["expert"] > 0.9 * best  # five trials, each the best that is left
    assert brought["fool"] < 0.5 * brought["expert"]


def test_a_leader_without_sense_leaves_the_run_to_the_search(advisors: Any, tmp_path: Path) -> None:
    results = _led(advisors, "malformed", tmp_path)
    assert len(results) == 13
    assert all((r.proposed_by or "").startswith("portfolio") for r in results[1:])
