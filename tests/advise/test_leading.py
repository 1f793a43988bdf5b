"""An LLM in the lead: asked at every turn, quoted in its own words, and held like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import paredown
from paredown.advise.policy import LESSON_CHARS, LlmPolicy
from paredown.advise.prompts import (
    MAX_PROMPT,
    Background,
    Prompt,
    build_brief_prompt,
    build_prompt,
)
from paredown.coordinate.coordinator import first_turn
from paredown.methods import registry
from paredown.search.base import View
from paredown.search.enumerated import Enumerated
from paredown.search.policies import registry as policies
from paredown.spec.run import OBJECTIVES, LlmConfig, RunConfig
from paredown.store.experiment import ExperimentRecord
from tests.advise import test_llm
from tests.advise.llm_server import Handler, LlmServer, advice, completion
from tests.advise.test_llm import GOOD, SECRET, llm_policy, some_history, view
from tests.coordinate.test_run import settings
from tests.search.search_fakes import model_spec, play, smooth_truth

space, _closed = test_llm.space, test_llm._closed


def leading(server: LlmServer, folder: Path, **config: Any) -> LlmPolicy:
    """One that every decision is asked of."""
    policy = llm_policy(server, folder, share=1.0, **config)
    request = RunConfig(model="fake", llm=LlmConfig(share=1.0))
    policy.background = Background(spec=model_spec(), config=request, device="cpu")
    return policy


def test_a_leader_says_what_it_learned_in_one_short_line(space: Enumerated, tmp_path: Path) -> None:
    words = "Rounding costs\n\u202e little; " + "cutting costs much. " * 40
    with LlmServer(advice(GOOD, learned=words)) as server:
        decision = leading(server, tmp_path).choose(view(space, some_history(space, 4)))
    assert decision.learned is not None
    assert decision.learned.startswith("Rounding costs little; cutting costs much.")
    assert len(decision.learned) == LESSON_CHARS
    (seen,) = server.seen
    form = seen.body["response_format"]["json_schema"]["schema"]
    assert "learned" in form["required"]
    assert "every decision is yours" in seen.text
    assert sum(len(m["content"]) for m in seen.body["messages"]) <= MAX_PROMPT


@pytest.mark.parametrize("words", [None, "", "\n \u200b"])
def test_a_leader_need_not_have_learned_anything(
    space: Enumerated, tmp_path: Path, words: str | None
) -> None:
    with LlmServer(advice(GOOD, learned=words)) as server:
        decision = leading(server, tmp_path).choose(view(space, some_history(space, 4)))
    assert decision.strategy == registry.canonical(GOOD)
    assert decision.learned is None


@pytest.mark.parametrize("words", [["a", "list"], "x" * 2500])
def test_a_lesson_of_the_wrong_form_is_asked_for_again(
    space: Enumerated, tmp_path: Path, words: Any
) -> None:
    with LlmServer(advice(GOOD, learned=words), advice(GOOD, learned="fine")) as server:
        decision = leading(server, tmp_path).choose(view(space, some_history(space, 4)))
    assert decision.learned == "fine"
    assert "cannot be used: learned" in server.seen[1].text


def test_who_does_not_lead_is_not_quoted(space: Enumerated, tmp_path: Path) -> None:
    with LlmServer(advice(GOOD, learned="that I should lead")) as server:
        decision = llm_policy(server, tmp_path).choose(view(space, some_history(space, 4)))
    assert decision.learned is None
    form = server.seen[0].body["response_format"]["json_schema"]["schema"]
    assert "learned" not in form["properties"]


def test_what_is_forecast_to_be_hopeless_is_refused_with_words(
    space: Enumerated, tmp_path: Path
) -> None:
    now = view(space, some_history(space, 4))
    bad = registry.canonical("round(bits=2)")
    assert now.may(bad)
    with LlmServer(advice("round(bits=2)"), advice(GOOD)) as server:
        decision = leading(server, tmp_path).choose(replace(now, shunned={bad.hash}))
    assert decision.strategy == registry.canonical(GOOD)
    assert "round(bits=2) is forecast to break a limit" in server.seen[1].text


def test_a_leader_is_asked_at_every_turn_from_the_first(space: Enumerated, tmp_path: Path) -> None:
    order = iter(sorted(space.strategies, key=lambda s: -smooth_truth(s, 1).value("size")))  # type: ignore[operator]

    def answer(handler: Handler) -> None:
        handler.send_json(200, completion(advice(str(next(order)))))

    with LlmServer(then=answer) as server:
        leader = leading(server, tmp_path, budget_tokens=10**7)
        policy = policies.create("portfolio", seed=0, objectives=OBJECTIVES, leader=leader)
        whole = play(policy, space, episodes=6)
        again = leading(server, tmp_path, budget_tokens=10**7)
        policy = policies.create("portfolio", seed=0, objectives=OBJECTIVES, leader=again)
        assert again.usage.tokens == leader.usage.tokens == 6 * 1050  # a resumed run counts on
        whole = play(policy, space, episodes=3, history=whole)
    assert [r.proposed_by for r in whole[1:]] == ["lead:llm"] * 9


def test_a_leader_whose_budget_is_used_up_leaves_the_run_to_the_search(
    space: Enumerated, tmp_path: Path
) -> None:
    order = iter(space.strategies)

    def answer(handler: Handler) -> None:
        handler.send_json(200, completion(advice(str(next(order)))))

    with LlmServer(then=answer) as server:
        leader = leading(server, tmp_path, budget_tokens=5_000)
        policy = policies.create("random", seed=0, objectives=OBJECTIVES, leader=leader)
        results = play(policy, space, episodes=10)
    by = [r.proposed_by for r in results[1:]]
    count = by.count("lead:llm")
    assert 1 <= count < 5
    assert by == ["lead:llm"] * count + ["random"] * (10 - count)
    assert leader.usage.tokens <= 5_000


@pytest.mark.parametrize("build_it", [build_prompt, build_brief_prompt])
def test_a_leader_is_shown_what_is_known_elsewhere_until_it_is_tried(
    space: Enumerated, build_it: Callable[[Background, View], Prompt]
) -> None:
    history = some_history(space, 3)
    usual, tried = space.strategies[-1], history[1].strategy
    assert tried is not None
    background = Background(spec=model_spec(), config=RunConfig(model="fake"), device="cpu")
    plain = build_it(background, view(space, history)).candidates.values()
    assert usual not in plain
    shown = build_it(replace(background, first=(tried, usual)), view(space, history)).candidates
    assert next(iter(shown.values())) == usual
    assert tried not in shown.values()
    assert len(shown) == len(plain)


@pytest.mark.parametrize(
    ("share", "episodes", "begun", "first"),
    [(1.0, 1, 4, 1), (0.3, 10, 2, 8), (0.3, 10, 6, 10), (0.3, 5, 2, None), (0.5, 5, 2, 4)],
)
def test_the_first_turn_is_told(share: float, episodes: int, begun: int, first: int | None) -> None:
    config = RunConfig(model="m", episodes=episodes, llm=LlmConfig(share=share))
    assert first_turn(config, 9, begun) == first


@pytest.mark.slow
def test_a_run_that_an_llm_leads_is_stopped_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    told: list[tuple[str, dict[str, Any]]] = []
    answers = [
        advice(f"rtn(bits={bits}, group_size=32)", learned=f"{bits} bits are next")
        for bits in (8, 6, 5, 4)
    ]

    def go_on(server: LlmServer, episodes: int, *, resume: bool) -> ExperimentRecord:
        return paredown.optimize(
            **settings(  # type: ignore[arg-type]
                tmp_path, policy="portfolio", methods=("rtn", "gptq"), episodes=episodes,
                llm={"url": server.url, "model": "scripted", "share": 1},
            ),
            experiment_name="led", output_dir=tmp_path / "out", resume=resume,
            listen=lambda event, fields: told.append((event, fields)),
        ).record  # fmt: skip

    with LlmServer(*answers[:2]) as server:
        first = go_on(server, 2, resume=False)
        assert [r.proposed_by for r in first.trials] == ["lead:llm"] * 2
        server._script.answers.extend(answers[2:])
        whole = go_on(server, 4, resume=True)
    assert [r.proposed_by for r in whole.trials] == ["lead:llm"] * 4
    announced = [fields for event, fields in told if event == "coordinator"]
    assert [(a["share"], a["asked_from"]) for a in announced] == [(1, 1)] * 2
    assert "a usual first trial on other models" in server.seen[0].text
    report = (tmp_path / "out" / "led" / "report.md").read_text()
    section = report.split("## What the LLM says it learned")[1].split("\n## ")[0]
    for episode, bits in enumerate((8, 6, 5, 4), start=1):
        assert f"| {episode} | “{bits} bits are next” |" in section
