"""An adviser in the lead: before everything else, and no more trusted than others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import pytest

from paredown.errors import AdviceError
from paredown.methods import registry
from paredown.search.base import Budget, Decision, Policy, Remembered, View
from paredown.search.knowledge import Knowledge
from paredown.search.lead import STRIKES, Led
from paredown.search.policies import registry as policies
from paredown.search.policies.grid import GridSearch
from paredown.spec.run import Objective
from paredown.spec.target import Limits
from tests.search.search_fakes import build, play, proposed, use_fakes

PAIR: tuple[Objective, ...] = ("quality", "size")
SILENT = "silent"
KNOWN = "round(bits=8)"


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


@final
@dataclass
class Script(Policy):
    """Says what stands in a list, in turn; keeps what it was shown."""

    name: ClassVar[str] = "script"
    answers: Sequence[str]
    seen: list[View] = field(default_factory=list)

    def choose(self, view: View) -> Decision:
        self.seen.append(view)
        answer = self.answers[len(self.seen) - 1]
        if answer == SILENT:
            raise AdviceError("no connection")
        return view.decide(registry.canonical(answer), reason="said", policy=self.name)


def by(policy: Policy, episodes: int) -> list[str | None]:
    return [r.proposed_by for r in play(policy, build(), episodes=episodes)[1:]]


def test_what_the_leader_says_is_tried_in_its_order() -> None:
    said = ["cut(ratio=0.5)", "round(bits=2)", "mend(rank=32)"]
    results = play(Led(leader=Script(said), then=GridSearch()), build(), episodes=3)
    assert proposed(results) == said
    assert [r.proposed_by for r in results[1:]] == ["lead:script"] * 3


def test_a_turn_without_an_answer_is_the_search_s_and_the_next_the_leader_s_again() -> None:
    led = Led(leader=Script(["cut(ratio=0.5)", SILENT, "mend(rank=32)"]), then=GridSearch())
    assert by(led, 3) == ["lead:script", "grid", "lead:script"]


@pytest.mark.parametrize("answer", [SILENT, "cut(ratio=0.5)"])
def test_three_failures_in_a_row_end_the_lead(answer: str) -> None:
    leader = Script(["cut(ratio=0.5)", *[answer] * 20])  # it repeats itself, or is silent
    led = Led(leader=leader, then=GridSearch())
    results = play(led, build(), episodes=8)
    assert [r.proposed_by for r in results[1:]] == ["lead:script", *["grid"] * 7]
    assert len(leader.seen) == 1 + STRIKES
    assert len(set(proposed(results))) == 8
    budget = Budget(episodes_left=1)
    reason = led.propose(results, build(), Limits(), budget=budget).reason
    assert "script: no longer asked" in reason


def test_a_resumed_run_asks_it_again() -> None:
    """Who could not answer may do so in another process; what was tried stays tried."""
    first = play(Led(leader=Script([SILENT] * 9), then=GridSearch()), build(), episodes=4)
    again = Led(leader=Script(["cut(ratio=0.5)", "round(bits=2)"]), then=GridSearch())
    results = play(again, build(), episodes=2, history=first)
    assert [r.proposed_by for r in results[1:]] == [*["grid"] * 4, *["lead:script"] * 2]


def _informed(leader: Policy) -> Policy:
    known = registry.canonical(KNOWN)
    effects = (
        Remembered(strategy=known, over={"quality": 1.01}),
        Remembered(strategy=registry.canonical("round(bits=2)"), over={"quality": 500.0}),
    )
    return policies.create(
        "portfolio", seed=0, objectives=PAIR, leader=leader,
        knowledge=Knowledge(anchors=(known,), effects=effects),
        start=(registry.canonical("mend(rank=32)"),),
        remembered=(Remembered(strategy=registry.canonical("mend(rank=32)")),),
    )  # fmt: skip


def test_nothing_comes_before_the_leader_and_it_knows_what_the_search_knows() -> None:
    leader = Script(["cut(ratio=0.125)", "trim(ratio=0.125)"])
    assert by(_informed(leader), 2) == ["lead:script"] * 2
    told = [memory.strategy for memory in leader.seen[0].remembered]
    assert registry.canonical(KNOWN) in told
    assert registry.canonical("mend(rank=32)") in told


def test_without_an_answer_the_run_begins_with_what_is_known() -> None:
    results = play(_informed(Script([SILENT] * 9)), build(), episodes=3)
    assert proposed(results)[:2] == ["mend(rank=32)", KNOWN]
    assert [r.proposed_by for r in results[1:3]] == ["start", "knowledge"]


def test_a_leader_may_not_propose_what_is_forecast_to_be_hopeless() -> None:
    leader = Script(["round(bits=2)", "cut(ratio=0.125)"])
    policy = _informed(leader)
    results = play(policy, build(), episodes=1)
    assert registry.canonical("round(bits=2)").hash in leader.seen[0].shunned
    assert proposed(results) == ["mend(rank=32)"]
    assert [r.proposed_by for r in results[1:]] == ["start"]
