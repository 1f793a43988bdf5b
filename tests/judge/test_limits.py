"""Limits: what is met, what is not, in words with numbers."""

from __future__ import annotations

import pytest

from paredown.judge.limits import unmet
from paredown.judge.quantities import loss
from paredown.spec.result import TrialResult
from paredown.spec.target import Limits
from tests.spec.test_result import measurement, trial

BASELINE = trial(
    episode=0, strategy=None, measurements=(measurement(name="perplexity", value=10.0),)
)
NAMES = {
    "max_memory_gb": ("peak_memory", 2e9),
    "max_accuracy_loss": ("perplexity", 10.5),
    "min_speedup": ("speedup", 1.5),
    "target_ratio": ("compression_ratio", 3.0),
}
EXACT = {"max_memory_gb": 2.0, "max_accuracy_loss": 5.0, "min_speedup": 1.5, "target_ratio": 3.0}


def seen(**values: float) -> TrialResult:
    return trial(measurements=tuple(measurement(name=n, value=v) for n, v in values.items()))


ALL = seen(**dict(NAMES.values()))


@pytest.mark.parametrize("limit", EXACT)
def test_a_limit_is_met_at_the_very_number(limit: str) -> None:
    slack = 1e-9 if limit == "max_accuracy_loss" else 0.0  # 100 (10.5 / 10 - 1) is not exactly 5
    assert unmet(ALL, BASELINE, Limits.model_validate({limit: EXACT[limit] + slack})) == ()


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("max_memory_gb", 1.9, "memory 2 GB > 1.9 GB"),
        ("max_accuracy_loss", 4.9, "quality loss 5 % > 4.9 %"),
        ("min_speedup", 1.6, "speed-up 1.5 x < 1.6 x"),
        ("target_ratio", 3.1, "ratio 3 x < 3.1 x"),
    ],
)
def test_a_broken_limit_is_said_with_both_numbers(limit: str, value: float, words: str) -> None:
    assert unmet(ALL, BASELINE, Limits.model_validate({limit: value})) == (words,)


def test_all_broken_limits_are_said() -> None:
    limits = Limits(max_memory_gb=1, max_accuracy_loss=1, min_speedup=9, target_ratio=9)
    assert len(unmet(ALL, BASELINE, limits)) == 4


def test_no_limits_are_always_met() -> None:
    assert unmet(seen(), BASELINE, Limits()) == ()


@pytest.mark.parametrize("limit", EXACT)
def test_what_was_not_measured_does_not_meet_its_limit(limit: str) -> None:
    (words,) = unmet(seen(), BASELINE, Limits.model_validate({limit: EXACT[limit]}))
    assert words.endswith("was not measured")


def test_a_better_model_has_a_negative_loss() -> None:
    assert loss(seen(perplexity=9.0), BASELINE) == pytest.approx(-10.0)
    assert loss(seen(perplexity=20.0), BASELINE) == pytest.approx(100.0)
    assert loss(BASELINE, BASELINE) == 0.0
    assert unmet(seen(perplexity=9.0), BASELINE, Limits(max_accuracy_loss=0)) == ()


def test_loss_needs_both_sides() -> None:
    assert loss(seen(), BASELINE) is None
    assert loss(BASELINE, seen()) is None
