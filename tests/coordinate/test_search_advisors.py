"""The scripted advisors of `benchmarks/search_advisors.py`, through the whole road of an LLM."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from paredown.search.base import Budget
from paredown.search.enumerated import Enumerated
from paredown.search.policies.portfolio import ADVISOR_PROMISE, CAP, STRIKES, Arm, Portfolio
from paredown.search.policies.random import Uniform
from paredown.search.replay import Table
from paredown.spec.result import TrialResult
from paredown.spec.target import Limits
from tests.search.search_fakes import build, model_spec, play, result, smooth_truth, use_fakes

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
            Arm(policy=policy, capped=True, promise=ADVISOR_PROMISE),
        ),
    )
    return portfolio, play(portfolio, space, episodes=30)


@pytest.mark.parametrize("name", ["greedy", "random", "worst", "constant", "malformed"])
def test_no_advisor_gets_more_than_its_share_or_ends_the_run(
    advisors: Any, name: str, tmp_path: Path
) -> None:
    portfolio, results = _run(advisors, name, tmp_path)
    tried = [r.proposed_by for r in results[1:]]
    assert len(tried) == 30
    count = tried.count("portfolio:llm")
    assert count <= CAP * 30
    if name in {"greedy", "worst"}:
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
        extra_arms=(Arm(policy=policy, capped=True, promise=ADVISOR_PROMISE),),
    )
    results = play(whole, space, episodes=15)
    assert "portfolio:llm" in [r.proposed_by for r in results]
    assert whole.propose(results, space, Limits(), budget=Budget(episodes_left=1)).strategy
