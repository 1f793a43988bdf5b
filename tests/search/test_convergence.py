"""When a search stops although its budget is not used up."""

from __future__ import annotations

import pytest

from paredown.methods import registry
from paredown.search.convergence import converged
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.target import Limits
from tests.search.search_fakes import result, timed, use_fakes

PAIR: tuple[Objective, ...] = ("quality", "size")


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def history(*found: tuple[float, float], seconds: float = 10.0) -> list[TrialResult]:
    """A baseline, and trials with these perplexities and sizes."""
    strategy = registry.canonical("round")
    trials = [
        timed(result(strategy, episode=n, perplexity=p, size=s), seconds)
        for n, (p, s) in enumerate(found, start=1)
    ]
    return [result(None, episode=0, perplexity=20.0, size=768e3), *trials]


GOOD, WORSE = (21.0, 3e5), (30.0, 4e5)


def test_a_stretch_without_gain_ends_the_search_and_says_so() -> None:
    trials = history(GOOD, WORSE, WORSE, WORSE)
    assert converged(trials, PAIR, Limits(), patience=3) == (
        "converged: nothing better is expected, as the last 3 episodes took 75% of the time and "
        "brought 0.0% of the hypervolume (worth it: 3.8%)"
    )
    assert converged(trials[:-1], PAIR, Limits(), patience=3) is None  # three are all there are


def test_a_gain_within_the_stretch_is_worth_going_on_for() -> None:
    better = (21.0, 2e5)
    assert converged(history(GOOD, WORSE, better, WORSE), PAIR, Limits(), patience=3) is None
    assert converged(history(GOOD, better, *[WORSE] * 3), PAIR, Limits(), patience=3) is not None


def test_a_small_gain_is_worth_it_only_if_it_was_cheap() -> None:
    little = (20.99, 3e5)
    trials = history(*[GOOD] * 4, little, seconds=10.0)
    assert converged(trials, PAIR, Limits(), patience=1) is not None
    cheap = [*trials[:-1], timed(trials[-1], 1e-3)]
    assert converged(cheap, PAIR, Limits(), patience=1) is None


def test_a_fifth_of_a_long_run_is_judged_whatever_the_patience() -> None:
    early = history(*[WORSE] * 20, (21.0, 2e5), *[WORSE] * 3)
    assert converged(early, PAIR, Limits(), patience=3) is None  # 5 of 24, the gain among them
    assert converged([*early, *early[-2:]], PAIR, Limits(), patience=3) is None
    assert converged([*early, *early[-3:]], PAIR, Limits(), patience=3) is not None


def test_nothing_converges_while_nothing_meets_the_limits() -> None:
    trials = history(GOOD, WORSE, WORSE, WORSE)
    assert converged(trials, PAIR, Limits(target_ratio=3.0), patience=2) is None
    reason = converged(trials, PAIR, Limits(target_ratio=2.0), patience=2)
    assert reason is not None
    assert reason.startswith("converged: all limits are met and nothing better is expected")
