"""A search on a model that nobody has measured: what it begins with, and what it leaves out."""

from __future__ import annotations

import pytest

from paredown.methods import registry
from paredown.methods.shared.knowledge import Known, known
from paredown.search import knowledge
from paredown.search.base import Remembered
from paredown.search.knowledge import Knowledge, anchors, effects
from paredown.search.policies import registry as policies
from paredown.search.policies.grid import GridSearch
from paredown.search.start import Informed
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits
from tests.search.search_fakes import build, play, proposed, use_fakes


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def rows(monkeypatch: pytest.MonkeyPatch, **quality: float) -> None:
    """Let these be the rows, `round8=1.001` for `round(bits=8)`."""
    texts = {
        "round8": "round(bits=8)",
        "round4": "round(bits=4)",
        "round2": "round(bits=2)",
        "solve4": "solve(bits=4)",
        "cut": "cut(ratio=0.125)",
        "trained": "cut > mend",
    }
    found = tuple(
        Known(model="m", strategy=texts[name], quality=q, kl=q - 1) for name, q in quality.items()
    )
    monkeypatch.setattr(knowledge, "known", lambda: found)


def labels(found: tuple[Strategy, ...]) -> list[str]:
    return [registry.label(strategy) for strategy in found]


def test_the_shipped_rows_are_measured_effects_of_strategies_that_this_version_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    assert len(known()) >= 40
    for row in known():
        assert registry.canonical(row.strategy)
        assert row.quality > 0.5
    assert len(effects()) == len({row.strategy for row in known()})


def test_a_safe_one_comes_first_and_then_the_smallest_that_is_expected_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows(monkeypatch, round8=1.001, round4=1.3, solve4=1.1, round2=40.0, cut=1.005)
    space = build()
    assert labels(anchors(space, Limits(), episodes=4)) == ["cut(ratio=0.125)", "solve"]
    # 8 bits change no byte of this fake model, so they are no anchor however good they are.
    assert space.ratio(registry.canonical("round(bits=8)")) == 1.0


def test_a_limit_decides_what_is_expected_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    rows(monkeypatch, round2=1.35, solve4=1.1, cut=1.005)
    space = build()
    bold = labels(anchors(space, Limits(max_accuracy_loss=40), episodes=3))[1]
    assert bold == "round(bits=2)"
    assert labels(anchors(space, Limits(max_accuracy_loss=5), episodes=3)) == ["cut(ratio=0.125)"]
    assert anchors(space, Limits(max_accuracy_loss=0.1), episodes=3) == ()


def test_of_several_models_the_median_counts_and_of_two_the_one_that_lost_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = [Known(model=m, strategy="solve(bits=4)", quality=q, kl=0.0) for m, q in
            (("a", 1.02), ("b", 1.3))]  # fmt: skip
    monkeypatch.setattr(knowledge, "known", lambda: tuple(lost))
    assert anchors(build(), Limits(max_accuracy_loss=20), episodes=3) == ()
    lost.append(Known(model="c", strategy="solve(bits=4)", quality=1.01, kl=0.0))
    assert labels(anchors(build(), Limits(max_accuracy_loss=20), episodes=3)) == ["solve"]
    assert effects()[0].over == {"quality": 1.02}


def test_where_divergence_counts_as_quality_a_limit_bounds_what_is_known_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Perplexity twice the base's, KL 0.05: of exp(-KL) 5 % are lost."""
    row = Known(model="m", strategy="solve(bits=4)", quality=2.0, kl=0.05)
    monkeypatch.setattr(knowledge, "known", lambda: (row,))
    limits = Limits(max_accuracy_loss=6)
    assert anchors(build(), limits, episodes=3) == ()
    assert labels(anchors(build(), limits, episodes=3, qualities=("kl",))) == ["solve"]
    assert anchors(build(), Limits(max_accuracy_loss=4), episodes=3, qualities=("kl",)) == ()
    assert effects()[0].kept is None
    assert effects(("kl",))[0].kept == pytest.approx(0.9512, abs=1e-4)


def test_what_trains_waits_for_longer_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    rows(monkeypatch, cut=1.005, trained=1.02)
    space = build()
    assert labels(anchors(space, Limits(), episodes=7)) == ["cut(ratio=0.125)"]
    assert labels(anchors(space, Limits(), episodes=12))[-1] == "cut > mend"


def test_most_of_a_short_run_is_left_to_follow_what_the_first_trials_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows(monkeypatch, solve4=1.1, cut=1.005)
    assert len(anchors(build(), Limits(), episodes=1)) == 1
    assert len(anchors(build(), Limits(), episodes=2)) == 1
    assert len(anchors(build(), Limits(), episodes=3)) == 2


def informed(*texts: str, **effect: float) -> Informed:
    told = {"round2": "round(bits=2)", "cut": "cut", "solve2": "solve(bits=2)"}
    return Informed(
        anchors=tuple(map(registry.canonical, texts)),
        then=GridSearch(),
        known=tuple(
            Remembered(strategy=registry.canonical(told[name]), over={"quality": value})
            for name, value in effect.items()
        ),
        objectives=("quality", "size"),
    )


def test_what_is_forecast_to_be_ruined_is_not_tried_while_anything_else_is_left() -> None:
    space = build(methods=("round", "solve"), max_steps=1)
    policy = informed("solve", round2=1e4, solve2=1e4)
    results = play(policy, space, episodes=100)
    order = proposed(results)
    assert order[0] == "solve"
    ruined = [place for place, text in enumerate(order) if "bits=2" in text]
    fine = [place for place, text in enumerate(order) if "bits=2" not in text]
    assert ruined
    assert max(fine) < min(ruined)
    assert sorted(order) == sorted(registry.label(s) for s in space.strategies)


def test_trials_of_this_run_outrank_what_is_known_of_others() -> None:
    """All that is known says that `cut` is hopeless; here it is harmless, and stays in play."""
    space = build(methods=("cut", "round"), max_steps=1)
    told = informed("cut(ratio=0.125)", "cut(ratio=0.25)", cut=1e4)
    results = play(told, space, episodes=3)
    assert "cut(ratio=0.5)" in proposed(play(told, space, episodes=12, history=results))[:5]


def test_attribution_tells_knowledge_from_skills_and_from_the_policy() -> None:
    policy = policies.create(
        "grid", seed=0, objectives=("quality", "size"),
        start=(registry.canonical("cut(ratio=0.5)"),),
        knowledge=Knowledge(anchors=(registry.canonical("solve"),), effects=()),
    )  # fmt: skip
    results = play(policy, build(), episodes=3)
    assert [r.proposed_by for r in results[1:]] == ["start", "knowledge", "grid"]
