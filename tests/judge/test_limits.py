"""Limits: what is met, what is not, in words with numbers."""

from __future__ import annotations

import pytest

from paredown.judge.limits import (
    State,
    breaks,
    broken,
    broken_by_size,
    check,
    unmet,
    violations,
)
from paredown.judge.quantities import loss
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
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
    """A trial with these values, without an error."""
    return trial(
        measurements=tuple(
            measurement(name=n, value=v, n=1, stderr=None) for n, v in values.items()
        )
    )


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


def interval(name: str, value: float, low: float, high: float) -> TrialResult:
    found = measurement(name=name, value=value, n=9, stderr=0.1, low=low, high=high)
    return trial(measurements=(found,))


@pytest.mark.parametrize(
    ("low", "high", "state"),
    [(1.01, 1.05, State.MET), (1.01, 1.0501, State.UNDECIDED), (1.051, 1.2, State.BROKEN)],
)
def test_a_limit_is_decided_where_the_whole_interval_is_on_one_side(
    low: float, high: float, state: State
) -> None:
    result = interval("perplexity_ratio", (low + high) / 2, low, high)
    (found,) = check(result, BASELINE, Limits(max_accuracy_loss=5 + 1e-9))
    assert found.state is state


def test_at_least_is_decided_likewise() -> None:
    limits = Limits(min_speedup=1.5)
    states = [
        check(interval("speedup", 1.6, low, high), BASELINE, limits)[0].state
        for low, high in ((1.5, 1.7), (1.4, 1.7), (1.2, 1.4))
    ]
    assert states == [State.MET, State.UNDECIDED, State.BROKEN]


def test_what_is_undecided_is_promised_to_nobody_and_held_against_nobody() -> None:
    limits, result = Limits(min_speedup=1.5), interval("speedup", 1.6, 1.4, 1.7)
    (words,) = unmet(result, BASELINE, limits)
    assert words == "speed-up 1.6 x (which may be 1.40x to 1.70x) is not shown to be >= 1.5x"
    assert broken(result, BASELINE, limits) == ()
    assert violations(result, BASELINE, limits)["min_speedup"] < 0
    (found,) = check(result, BASELINE, limits)
    assert (found.excess, found.mend) == (0.0, "--min-speedup 1.4")
    assert len(broken(interval("speedup", 1.2, 1.1, 1.3), BASELINE, limits)) == 1


def test_imagined_outcomes_break_only_what_depends_on_the_base() -> None:
    limits = Limits(max_memory_gb=1e-9, max_accuracy_loss=5, min_speedup=2, target_ratio=3)
    fine: dict[Objective, float] = {"quality": 1.04, "latency": 0.4, "size": 0.3, "memory": 9.0}
    assert not breaks(fine, limits)
    assert breaks(fine | {"quality": 1.06}, limits)
    assert breaks(fine | {"latency": 0.6}, limits)
    assert breaks(fine | {"size": 0.4}, limits)
    assert not breaks({}, limits)


def test_a_loss_of_the_named_quality_is_imagined_as_it_is_measured() -> None:
    """To score 1 / 1.06 of the base's is a loss of 5.7 %, and 6 points less one of 6 points."""
    assert not breaks({"quality": 1.06}, Limits(max_accuracy_loss=5.8), named=True)
    assert breaks({"quality": 1.06}, Limits(max_accuracy_loss=5.8))
    assert breaks({"quality": 1.06}, Limits(max_accuracy_loss=5.6), named=True)
    assert breaks({"quality": 1.06}, Limits(max_accuracy_loss="5.9pt"), named=True)
    assert not breaks({"quality": 1.06}, Limits(max_accuracy_loss="6.1pt"), named=True)
    # Of the text's perplexity, points of a score say nothing.
    assert not breaks({"quality": 9.0}, Limits(max_accuracy_loss="1pt"))


def test_sizes_and_divergences_are_bounded_in_their_own_units() -> None:
    result = seen(size=71.42e6, bits_per_weight=4.248, kl=0.0512)
    limits = Limits.model_validate({"size": "70MB", "bpw": 4.2, "kl": 0.05})
    assert limits.size == 70_000_000
    assert unmet(result, BASELINE, limits) == (
        "size 71.42MB > 70MB",
        "size 4.25 bits per weight > 4.2 bits per weight",
        "KL 0.0512 nats/token > 0.05 nats/token",
    )
    mends = [found.mend for found in check(result, BASELINE, limits)]
    assert mends == ["--size 71.42MB", "--bpw 4.248", "--kl 0.0512"]
    wider = Limits.model_validate({"size": "71.42MB", "bpw": 4.248, "kl": 0.0512})
    assert unmet(result, BASELINE, wider) == ()


def test_a_divergence_that_may_be_larger_is_not_shown_to_be_small_enough() -> None:
    result = trial(measurements=(measurement(name="kl", value=0.045, n=9, stderr=0.004),))
    (found,) = check(result, BASELINE, Limits(kl=0.05))
    assert found.state is State.UNDECIDED  # 0.045 + 1.96 x 0.004 = 0.0528
    (found,) = check(result, BASELINE, Limits(kl=0.053))
    assert found.state is State.MET


def test_a_divergence_is_imagined_from_the_loss_of_the_text() -> None:
    assert breaks({"quality": 1.06}, Limits(kl=0.058))  # ln 1.06 = 0.0583
    assert not breaks({"quality": 1.06}, Limits(kl=0.059))


def test_files_of_a_size_are_known_from_the_weights() -> None:
    limits = Limits(size=3_000_000, bpw=4.0)
    assert broken_by_size(3_000_000, 2.0, limits, parameters=6_000_000) is None
    said = broken_by_size(3_000_001, 2.0, limits, parameters=6_000_000)
    assert said == "its files take 3.0 MB > 3MB"
    assert broken_by_size(2_500_001, 2.0, limits, parameters=5_000_000) is not None


def test_what_is_known_from_the_size_alone() -> None:
    limits = Limits(max_memory_gb=2, target_ratio=3)
    assert broken_by_size(2_000_000_000, 3.0, limits) is None
    assert broken_by_size(2_100_000_000, 3.0, limits) == "weights alone take 2.10 GB > 2 GB"
    assert broken_by_size(1_000_000_000, 2.9, limits) == "predicted ratio 2.90x < 3x"
    assert broken_by_size(10**15, 0.1, Limits()) is None
