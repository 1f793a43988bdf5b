"""The size of what an LLM is told."""

from __future__ import annotations

import pytest

from paredown.advise import prompts
from paredown.advise.prompts import Background, build_prompt
from paredown.methods import registry
from paredown.search.base import Budget, View
from paredown.search.enumerated import Enumerated
from paredown.spec.run import RunConfig
from paredown.spec.target import Limits, Target
from tests.search import synthetic
from tests.search.search_fakes import build, model_spec, result, use_fakes


def view(space: Enumerated, trials: int) -> View:
    """After so many trials in the space's order."""
    history = [result(None, episode=0, perplexity=20.0, size=768e3)] + [
        synthetic.trial(strategy, episode=number, world=1)
        for number, strategy in enumerate(space.strategies[:trials], start=1)
    ]
    return View(history=history, space=space, limits=Limits(), budget=Budget(episodes_left=20))


@pytest.mark.parametrize("room", [12_000, 6_000, 4_000])
def test_a_prompt_that_is_too_long_loses_what_matters_least(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every section is as long as it may be: methods by many values, a history of 500 trials."""
    monkeypatch.setattr(registry, "BUILTIN", synthetic.METHODS)
    monkeypatch.setattr(registry, "_plugins", lambda: ())
    monkeypatch.setattr(prompts, "MAX_PROMPT", room)
    shares = dict.fromkeys(prompts._SHARES, 5_000)  # in the order of what is cut
    monkeypatch.setattr(prompts, "_SHARES", shares)
    monkeypatch.setattr(prompts, "_methods", lambda view: ["m" * 299] * 50)
    space = Enumerated.build(model_spec(), Target(), max_steps=2)
    background = Background(
        spec=model_spec(), config=RunConfig(model="m"), device="cpu", skills=("s" * 600,) * 8
    )
    prompt = build_prompt(background, view(space, 500))
    told = prompt.messages[1]["content"]
    assert room - 600 <= sum(len(m["content"]) for m in prompt.messages) <= room
    assert told.startswith("MODEL name=m")
    assert told.count("s" * 600) == {12_000: 5, 6_000: 0, 4_000: 0}[room]
    assert "m" * 299 in told
    assert ("RESULTS" in told) == (room > 6_000)
    assert len(prompt.candidates) == 12
    assert all(name in told for name in prompt.candidates)
    assert "more)" in told


def test_what_no_answer_could_name_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setattr(prompts, "MAX_STRATEGY", 20)
    background = Background(spec=model_spec(), config=RunConfig(model="m"), device="cpu")
    found = build_prompt(background, view(build(), 0)).candidates
    assert found
    assert max(map(len, found)) <= 20
