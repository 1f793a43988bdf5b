"""What untried strategies are expected to give."""

from __future__ import annotations

import pytest

from paredown.methods import registry
from paredown.search.base import Budget, View
from paredown.search.surrogate import MINIMUM, Surrogate, shortlist
from paredown.spec.result import TrialResult
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits
from tests.search.search_fakes import build, result, use_fakes


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def _truth(strategy: Strategy, episode: int) -> TrialResult:
    """Twice the perplexity where something is cut, 1.5 times where it is rounded to 2 bits; half
    the time where it is rounded."""
    factor = ms = 1.0
    for step in strategy.steps:
        factor *= 2.0 if step.method == "cut" else 1.0
        factor *= 1.5 if step.params.get("bits") == 2 else 1.0
        ms *= 0.5 if step.method == "round" else 1.0
    return result(strategy, episode=episode, perplexity=20 * factor, size=4e5, ms=20 * ms)


def _history(count: int) -> list[TrialResult]:
    trials = [_truth(s, n) for n, s in enumerate(build().strategies[:count], start=1)]
    return [result(None, episode=0, perplexity=20.0, size=768e3, ms=20.0), *trials]


def _without(name: str, found: TrialResult) -> TrialResult:
    kept = tuple(m for m in found.measurements if m.name != name)
    return found.model_copy(update={"measurements": kept})


def test_effects_of_parts_add_up_to_those_of_an_untried_pipeline() -> None:
    surrogate = Surrogate.fit(_history(200))
    assert surrogate is not None
    both = registry.canonical("cut > round(bits=2)")
    quality, latency = surrogate.expect(both)
    assert quality == pytest.approx(3.0, rel=0.15)
    assert latency == pytest.approx(0.5, rel=0.15)


def test_it_needs_trials() -> None:
    assert Surrogate.fit(_history(MINIMUM - 1)) is None
    assert Surrogate.fit(_history(MINIMUM)) is not None
    assert Surrogate.fit(_history(200)[1:]) is None  # no baseline, nothing to compare with


def test_quality_is_learned_from_trials_that_were_not_timed() -> None:
    history = [_without("decode_latency", r) for r in _history(200)]
    surrogate = Surrogate.fit(history)
    assert surrogate is not None
    quality, latency = surrogate.expect(registry.canonical("cut > round(bits=2)"))
    assert quality == pytest.approx(3.0, rel=0.15)
    assert latency is None


def test_the_shortlist_is_untried_and_spread_over_sizes() -> None:
    history, space = _history(12), build()
    view = View(history=history, space=space, limits=Limits(), budget=Budget(episodes_left=5))
    found = shortlist(view, Surrogate.fit(history), 6)
    tried = {s.hash for s in view.started}
    assert len({s.hash for s in found} - tried) == 6
    assert len({round(space.ratio(s), 2) for s in found}) >= 2
