"""What untried strategies are expected to measure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from paredown.analysis.pareto import FloatArray
from paredown.methods import registry
from paredown.search.base import Budget, Remembered, View
from paredown.search.outlook import Outlook, shortlist
from paredown.search.policies.grid import GridSearch
from paredown.search.policies.surrogate import Expected
from paredown.search.regression import Forecast, forecast
from paredown.search.start import Informed, hopeful
from paredown.spec.result import Measurement, TrialResult
from paredown.spec.run import Objective
from paredown.spec.strategy import Step, Strategy
from paredown.spec.target import Limits
from paredown.spec.units import Unit
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


LOSS = Limits(max_accuracy_loss=10)


def _scored(found: TrialResult, kept: float, points: float = 0.0) -> TrialResult:
    """As if a benchmark had been asked, of which the result keeps this share."""
    also = tuple(
        Measurement(name=name, value=value, unit=unit, n=1, stderr=None, lower_is_better=False,
                    source="derived", how="made up")
        for name, value, unit in (("quality", kept, Unit.FRACTION),
                                  ("quality_points", points, Unit.POINTS))
    )  # fmt: skip
    return found.model_copy(update={"measurements": (*found.measurements, *also)})


def _named_view(*, scored: bool, limits: Limits = LOSS) -> View:
    """The text says that `cut` doubles the perplexity; the benchmark loses a half where something
    is rounded, and nothing where it is cut. `cut > round` is untried, and `mend`, which is fine."""
    history = []
    for found in _history(200):
        if found.strategy is None:
            history.append(_scored(found, 1.0))
            continue
        methods = {step.method for step in found.strategy.steps}
        kept = 0.5 if methods & {"round", "solve"} else 1.0
        if methods not in ({"cut", "round"}, {"mend"}):
            points = 100 * 0.4 * (kept - 1)  # the base scores 0.4
            history.append(_scored(found, kept, points) if scored else found)
    return replace(_view(history), limits=limits)


def _hopeless(view: View) -> set[tuple[str, ...]]:
    """Methods of what is left out."""
    shunned = hopeful(view, ("quality", "size")).shunned
    return {tuple(step.method for step in s.steps) for s in view.untried if s.hash in shunned}


def test_a_limit_is_forecast_for_the_quality_that_was_named() -> None:
    assert ("cut", "round") in _hopeless(_named_view(scored=True))
    few = [r for r in _named_view(scored=True).history if r.strategy is None
           or str(r.strategy).startswith("cut(ratio=0.25")]  # fmt: skip
    few = [r for r in few if r.strategy is None or len(r.strategy.steps) == 1]
    assert len(few) == 2
    view = replace(_named_view(scored=True), history=few)
    # What was cut kept all of the score: its doubled perplexity is no loss of what was named.
    assert ("cut",) not in _hopeless(view)
    assert ("cut",) in _hopeless(replace(view, history=[_unscored(r) for r in few]))


def _unscored(found: TrialResult) -> TrialResult:
    return _without("quality", _without("quality_points", found))


@pytest.mark.parametrize(("asked", "is_hopeless"), [("10pt", True), ("30pt", False)])
def test_a_limit_in_points_is_forecast_in_points(asked: str, is_hopeless: bool) -> None:
    """Half of 0.4 is a loss of 20 points."""
    view = _named_view(scored=True, limits=Limits(max_accuracy_loss=asked))
    assert (("cut", "round") in _hopeless(view)) == is_hopeless


def test_without_a_score_the_text_stands_for_it_and_that_is_said() -> None:
    policy = Informed(anchors=(), then=GridSearch(), known=(), objectives=("quality", "size"))
    unscored = policy.choose(_named_view(scored=False))
    assert "from the text: nothing was scored yet" in unscored.reason
    assert ("cut", "round") in _hopeless(_named_view(scored=False))
    assert "text" not in policy.choose(_named_view(scored=True)).reason
    assert "text" not in policy.choose(_view(_history(12))).reason  # perplexity is what counts
    # Other experiments have scored it.
    told = Remembered(strategy=registry.canonical("cut"), over={"quality": 2.0}, kept=0.99)
    view = replace(_named_view(scored=False), remembered=(told,))
    assert "text" not in policy.choose(view).reason


def test_what_is_barely_expected_to_break_a_limit_is_risked_after_the_first_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = registry.canonical("cut > round(bits=8)")
    names: tuple[Objective, ...] = ("quality", "size")
    view = _view(_history_but("cut > round(bits=8)", "mend"))
    value, error = _forecast(_outlook(list(view.history)), "quality", str(both))

    def is_left_out(errors: float) -> bool:
        """With a limit so many standard errors below what is expected."""
        limits = Limits(max_accuracy_loss=100 * (value / error**errors - 1))
        return both.hash in hopeful(replace(view, limits=limits), names).shunned

    assert [is_left_out(errors) for errors in (-0.5, 0.5, 1.5)] == [False, False, True]
    monkeypatch.setattr("paredown.search.start.CAREFUL", len(view.trials) + 1)
    assert [is_left_out(errors) for errors in (-0.5, 0.5, 1.5)] == [False, True, True]


def test_a_limit_counts_though_it_bounds_no_objective() -> None:
    view = replace(_view(_history_but("cut > round(bits=8)", "mend")), limits=LOSS)
    assert registry.canonical("cut > round(bits=8)").hash in hopeful(view, ("size",)).shunned


def test_a_turn_forecasts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    whole = forecast

    def counted(seen: FloatArray, values: FloatArray, new: FloatArray, **more: Any) -> Forecast:
        asked.append(len(new))
        return whole(seen, values, new, **more)

    monkeypatch.setattr("paredown.search.outlook.forecast", counted)
    both: tuple[Objective, ...] = ("quality", "size", "latency")
    policy = Informed(anchors=(), then=Expected(seed=0, objectives=both), known=(), objectives=both)
    view = replace(_view(_history(24)), limits=LOSS)
    assert len(hopeful(view, both).shunned) > 0
    asked.clear()
    policy.choose(view)
    assert len(asked) == 2  # quality and latency; sizes are known


def test_what_is_shared_is_what_would_be_forecast_again() -> None:
    names: tuple[Objective, ...] = ("quality", "latency")
    view = replace(_view(_history(24)), limits=LOSS)
    shared = hopeful(view, names)
    assert shared.outlook is not None
    assert 0 < len(shared.left) < len(view.left)
    again, fresh = (Outlook.of(v, names) for v in (shared, replace(shared, outlook=None)))
    assert again is not None
    assert fresh is not None
    for name in names:
        np.testing.assert_allclose(again.forecasts[name].mean, fresh.forecasts[name].mean)
        np.testing.assert_allclose(again.forecasts[name].error, fresh.forecasts[name].error)
    # One more trial, and nothing of it holds any more.
    later = replace(shared, history=_history(25))
    now, anew = (Outlook.of(v, names) for v in (later, replace(later, outlook=None)))
    assert now is not None
    assert anew is not None
    np.testing.assert_allclose(now.forecasts["quality"].mean, anew.forecasts["quality"].mean)


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
