"""What untried strategies are expected to measure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from paredown.methods import registry
from paredown.search.base import Budget, Remembered, View
from paredown.search.outlook import Outlook, shortlist
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.strategy import Step, Strategy
from paredown.spec.target import Limits
from tests.search.search_fakes import build, failure, result, use_fakes


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def _truth(strategy: Strategy, episode: int) -> TrialResult:
    """Twice the perplexity where something is cut, 1.5 times where it is rounded to 8 bits; half
    the time where it is rounded."""
    factor = ms = 1.0
    for step in strategy.steps:
        factor *= 2.0 if step.method == "cut" else 1.0
        factor *= 1.5 if step.params.get("bits") == 8 else 1.0
        ms *= 0.5 if step.method == "round" else 1.0
    return result(strategy, episode=episode, perplexity=20 * factor, size=4e5, ms=20 * ms)


def _history(count: int) -> list[TrialResult]:
    trials = [_truth(s, n) for n, s in enumerate(build().strategies[:count], start=1)]
    return [result(None, episode=0, perplexity=20.0, size=768e3, ms=20.0), *trials]


def _without(name: str, found: TrialResult) -> TrialResult:
    kept = tuple(m for m in found.measurements if m.name != name)
    return found.model_copy(update={"measurements": kept})


def _view(history: list[TrialResult]) -> View:
    return View(history=history, space=build(), limits=Limits(), budget=Budget(episodes_left=5))


def _outlook(history: list[TrialResult]) -> Outlook:
    found = Outlook.of(_view(history), ("quality", "size", "latency"))
    assert found is not None
    return found


def _forecast(outlook: Outlook, name: Objective, text: str) -> tuple[float, float]:
    """(expected value over the baseline's, its standard error as a factor)."""
    wanted = registry.canonical(text).hash
    (place,) = (i for i, s in enumerate(outlook.strategies) if s.hash == wanted)
    found = outlook.forecasts[name]
    return float(np.exp(found.mean[place])), float(np.exp(found.error[place]))


def _history_but(*texts: str) -> list[TrialResult]:
    kept = {registry.canonical(text).hash for text in texts}
    return [r for r in _history(200) if r.strategy is None or r.strategy.hash not in kept]


def test_what_is_untried_is_expected_to_be_like_its_parts() -> None:
    both = "cut > round(bits=8)"
    outlook = _outlook(_history_but(both))
    quality, error = _forecast(outlook, "quality", both)
    assert quality == pytest.approx(3.0, rel=0.15)
    assert 1.0 < error < 1.3
    assert _forecast(outlook, "latency", both)[0] == pytest.approx(0.5, rel=0.15)
    strategy = registry.canonical(both)
    ratio = build().ratio(strategy)
    assert _forecast(outlook, "size", both) == pytest.approx((1 / ratio, 1.0))


def test_trials_make_the_error_smaller() -> None:
    both = "cut > round(bits=8)"
    before = _forecast(_outlook(_history(0)), "quality", both)[1]
    assert _forecast(_outlook(_history_but(both)), "quality", both)[1] < before


def test_there_is_none_without_measurements() -> None:
    assert Outlook.of(_view([]), ("quality",)) is None
    unmeasured = [_without("peak_memory", r) for r in _history(0)]
    assert Outlook.of(_view(unmeasured), ("memory",)) is None


def test_quality_is_learned_from_trials_that_were_not_timed() -> None:
    both = "cut > round(bits=8)"
    outlook = _outlook([_without("decode_latency", r) for r in _history_but(both)])
    assert _forecast(outlook, "quality", both)[0] == pytest.approx(3.0, rel=0.15)
    assert "latency" not in outlook.forecasts


def test_what_is_remembered_counts_where_little_was_seen() -> None:
    both = registry.canonical("cut > round(bits=8)")
    view = _view(_history(2))

    def quality(*remembered: Remembered) -> float:
        outlook = Outlook.of(replace(view, remembered=remembered), ("quality",))
        assert outlook is not None
        return _forecast(outlook, "quality", str(both))[0]

    trials = [r for r in _history(200) if r.strategy is not None]
    told = [
        Remembered(strategy=r.strategy, over={"quality": (r.value("perplexity") or 0) / 20})
        for r in trials if r.strategy is not None
    ]  # fmt: skip
    failed = [r if r.strategy != both else Remembered(strategy=both, failed=True) for r in told]
    foreign = Strategy(steps=(Step(method="unheard_of", params={}),))
    assert quality() < 1.5
    assert quality(*told) == pytest.approx(3.0, rel=0.2)
    assert quality(*failed) > quality(*told)
    absurd = Remembered(strategy=both, over={"quality": 1e-300})
    assert 0.1 < quality(*(absurd if r.strategy == both else r for r in told)) < 3.0
    assert quality(Remembered(strategy=foreign, over={"quality": 3.0})) == quality()
    assert quality(Remembered(strategy=both, over={"latency": 3.0})) == quality()


def test_a_failure_says_nothing_of_speed() -> None:
    history = _history_but("cut > round(bits=8)")
    fast = [r if r.strategy is None else _timed(r, 10.0) for r in history]
    ruined = [
        r if r.strategy is None or n % 3 else failure(r.strategy, episode=r.episode)
        for n, r in enumerate(fast)
    ]
    latency, _ = _forecast(_outlook(ruined), "latency", "cut > round(bits=8)")
    assert latency == pytest.approx(0.5, rel=0.1)
    quality, _ = _forecast(_outlook(ruined), "quality", "cut > round(bits=8)")
    assert quality > _forecast(_outlook(fast), "quality", "cut > round(bits=8)")[0]


def _timed(found: TrialResult, ms: float) -> TrialResult:
    return result(found.strategy, episode=found.episode, perplexity=found.value("perplexity") or 0,
                  size=4e5, ms=ms)  # fmt: skip


def test_the_shortlist_is_untried_and_spread_over_sizes() -> None:
    view = _view(_history(12))
    found = shortlist(view, _outlook(_history(12)), 6)
    tried = {s.hash for s in view.started}
    assert len({s.hash for s in found} - tried) == 6
    assert len({round(view.space.ratio(s), 2) for s in found}) >= 2


def test_before_any_trial_the_shortlist_shows_every_method() -> None:
    view = _view(_history(0))
    found = shortlist(view, Outlook.of(view, ("quality",)), 6)
    assert len(found) == 6
