"""Limits: what is met, what is not, in words with numbers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from paredown.spec.result import TrialResult
from paredown.spec.target import Limits, Target, quality_loss
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
    assert Limits.model_validate({limit: EXACT[limit] + slack}).unmet(ALL, BASELINE) == ()


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
    assert Limits.model_validate({limit: value}).unmet(ALL, BASELINE) == (words,)


def test_all_broken_limits_are_said() -> None:
    limits = Limits(max_memory_gb=1, max_accuracy_loss=1, min_speedup=9, target_ratio=9)
    assert len(limits.unmet(ALL, BASELINE)) == 4


def test_no_limits_are_always_met() -> None:
    assert Limits().unmet(seen(), BASELINE) == ()


@pytest.mark.parametrize("limit", EXACT)
def test_what_was_not_measured_does_not_meet_its_limit(limit: str) -> None:
    (words,) = Limits.model_validate({limit: EXACT[limit]}).unmet(seen(), BASELINE)
    assert words.endswith("was not measured")


def test_a_better_model_has_a_negative_loss() -> None:
    assert quality_loss(seen(perplexity=9.0), BASELINE) == pytest.approx(-10.0)
    assert quality_loss(seen(perplexity=20.0), BASELINE) == pytest.approx(100.0)
    assert quality_loss(BASELINE, BASELINE) == 0.0
    assert Limits(max_accuracy_loss=0).unmet(seen(perplexity=9.0), BASELINE) == ()


def test_loss_needs_both_sides() -> None:
    assert quality_loss(seen(), BASELINE) is None
    assert quality_loss(BASELINE, seen()) is None


@pytest.mark.parametrize(
    "bad",
    [
        {"max_memory_gb": 0}, {"max_memory_gb": -1}, {"max_accuracy_loss": -0.1},
        {"min_speedup": 0}, {"target_ratio": 1}, {"max_memory": 2},
    ],
)  # fmt: skip
def test_limits_that_make_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Limits.model_validate(bad)


def test_devices_and_runtimes() -> None:
    assert Target().device == "cpu"
    with pytest.raises(ValidationError):
        Target.model_validate({"device": "tpu"})
    with pytest.raises(ValidationError):
        Target.model_validate({"runtime": "llama.cpp"})
