from __future__ import annotations

import re
from typing import Any

import pytest

from paredown.judge.front import find_front
from paredown.judge.recommend import Recommendation, recommend
from paredown.spec.result import TrialResult
from paredown.spec.run import OBJECTIVES, Objective
from paredown.spec.target import Limits
from tests.report.report_samples import (
    BASE,
    baseline,
    failed,
    measurement,
    ok,
    point,
    scored,
    several,
)


def choose(
    results: tuple[TrialResult, ...],
    objectives: tuple[Objective, ...] = OBJECTIVES,
    **limits: Any,
) -> Recommendation:
    base = next((r for r in results if r.episode == 0), None)
    return recommend(results, base, Limits(**limits), find_front(results, objectives))


def test_without_limits_the_smallest_that_loses_at_most_five_percent() -> None:
    found = choose(several())
    assert (found.episode, found.runner_up, found.meets_limits) == (2, 1, None)
    assert "smallest artifact of the front that loses at most 5 %" in found.reason
    assert "94.5 MB (2.86x smaller), perplexity +4.0 %" in found.reason
    assert found.runner_up_reason == (
        "perplexity +0.5 % instead of +4.0 %; but 57 % larger, 50 % slower per token, "
        "27 % more memory"
    )


def test_without_limits_and_all_losing_much_the_knee() -> None:
    results = (
        baseline(),
        point(1, "rtn(bits=4)", 1.30, 0.55, 0.9, 0.7),
        point(2, "rtn(bits=3)", 1.40, 0.35, 0.6, 0.55),
        point(3, "rtn(bits=2)", 9.00, 0.28, 0.58, 0.54),
    )
    assert find_front(results, OBJECTIVES).knee == 2
    found = choose(results)
    assert found.episode == 2
    assert "no artifact of the front is known to lose at most 5 %" in found.reason
    assert "knee" in found.reason


def test_a_knee_at_the_baseline_gives_the_one_that_loses_least() -> None:
    results = (baseline(), point(1, "rtn(bits=2)", 3.0, 0.3, 0.6, 0.5))
    assert choose(results).episode == 1


def test_a_limit_on_quality_gives_the_smallest_that_meets_it() -> None:
    assert choose(several(), max_accuracy_loss=1).episode == 1
    assert choose(several(), max_accuracy_loss=100).episode == 3


def test_other_limits_give_the_one_that_loses_least() -> None:
    found = choose(several(), target_ratio=2.5)
    assert (found.episode, found.runner_up, found.meets_limits) == (2, 3, True)
    assert "least loss of quality that meets every limit (ratio >= 2.5x)" in found.reason
    assert choose(several(), max_memory_gb=0.7).episode == 1


def test_only_one_meets_the_limits() -> None:
    found = choose(several(), min_speedup=1.9)
    assert (found.episode, found.runner_up) == (3, None)
    assert found.runner_up_reason == "no other result of the front meets the limits"


def test_limits_that_nobody_meets_name_the_nearest() -> None:
    found = choose(several(), max_accuracy_loss=3, target_ratio=2.5)
    assert (found.episode, found.meets_limits, found.nearest) == (None, False, 2)
    assert "Nearest is episode 2, gptq(bits=4)" in found.reason
    assert "quality loss <= 3 % (it has: +4.0 %)" in found.reason
    assert "--max-accuracy-loss 4" in found.reason
    assert "Even taken alone" not in found.reason


def test_a_limit_out_of_reach_is_named_with_the_best_seen() -> None:
    found = choose(several(), min_speedup=10)
    assert found.nearest == 3
    assert "nothing meets speed-up >= 10x (best: 2.00x" in found.reason


@pytest.mark.parametrize(
    ("limit", "asked"),
    [("max_memory_gb", 0.1), ("max_accuracy_loss", 0.1), ("min_speedup", 9), ("target_ratio", 9)],
)
def test_the_mend_would_really_accept_the_nearest(limit: str, asked: Any) -> None:
    results = (baseline(), point(1, "gptq(bits=4)", 1.0333, 0.3517, 0.6123, 0.5123))
    bound: dict[str, Any] = {limit: asked}
    found = choose(results, **bound)
    option = "--" + limit.replace("_", "-")
    mend = re.search(rf"{option} ([\d.]+) would accept it", found.reason)
    assert mend is not None
    assert choose(results, **(bound | {limit: float(mend[1])})).episode == 1


def test_when_only_the_baseline_meets_the_limits_the_nearest_is_named() -> None:
    found = choose(several(), max_accuracy_loss=0.1)
    assert (found.episode, found.meets_limits, found.nearest) == (0, True, 1)
    assert found.reason.startswith("only the uncompressed model meets the limits")
    assert "Nearest is episode 1, int8: it misses quality loss <= 0.1 %" in found.reason


def test_nearest_is_judged_by_the_worst_miss() -> None:
    """Episode 1 all but meets one limit and is far off the other; 2 misses both by a little."""
    results = (
        baseline(),
        point(1, "rtn(bits=2)", 3.0, 0.251, 0.6, 0.5),
        point(2, "gptq(bits=4)", 1.1, 0.28, 0.6, 0.5),
    )
    assert choose(results, max_accuracy_loss=5, target_ratio=4).nearest == 2


def test_what_was_not_measured_does_not_meet_a_limit() -> None:
    values = {k: v / 2 for k, v in BASE.items() if k != "peak_memory"}
    results = (baseline(), ok(1, "int8", values))
    found = choose(results, ("quality", "size"), max_memory_gb=0.5)
    assert (found.episode, found.meets_limits) == (None, False)
    found = choose((results[1],), ("quality", "size"), max_memory_gb=0.5)
    assert "memory <= 0.5 GB (it has: not measured)" in found.reason
    assert "would accept" not in found.reason


def test_a_limit_on_no_objective_may_choose_what_the_front_left_out() -> None:
    """Episode 2 is dominated in quality and size, but only it is small enough in memory."""
    results = (
        baseline(),
        point(1, "gptq(bits=4)", 1.02, 0.30, 0.6, 0.9),
        point(2, "rtn(bits=4)", 1.04, 0.35, 0.6, 0.4),
    )
    found = choose(results, ("quality", "size"), max_memory_gb=0.5)
    assert (found.episode, found.meets_limits) == (2, True)


def test_the_baseline_only_where_nothing_is_better() -> None:
    found = choose((baseline(), point(1, "rtn(bits=2)", 2.0, 1.0, 1.0, 1.0)))
    assert (found.episode, found.runner_up) == (0, None)
    assert "no result is better than it" in found.reason
    twin = ok(1, "bf16", BASE)
    assert choose((baseline(), twin)).episode == 0
    found = choose((baseline(), twin), max_memory_gb=8)
    assert (found.episode, found.meets_limits) == (0, True)


@pytest.mark.parametrize(
    ("latency", "memory", "chosen"),
    [(0.96, 1.0, 0), (0.94, 1.0, 1), (1.0, 0.985, 0), (1.0, 0.97, 1)],
)
def test_better_by_less_than_what_a_repeat_would_give_is_not_better(
    latency: float, memory: float, chosen: int
) -> None:
    """Decode latencies repeat within 5 %, peak memory within 2 %."""
    results = (baseline(), point(1, "rtn(bits=8)", 1.02, 1.0, latency, memory))
    assert choose(results, max_accuracy_loss=5).episode == chosen


@pytest.mark.parametrize("results", [(), (failed(1),)])
def test_nothing_measured(results: tuple[TrialResult, ...]) -> None:
    found = choose(results, max_memory_gb=1)
    assert found.episode is None
    assert "no episode finished" in found.reason


def test_without_a_baseline_the_knee() -> None:
    found = choose(several()[1:])
    assert found.episode == find_front(several()[1:], OBJECTIVES).knee


def test_speeds_are_compared_by_their_ratios_to_the_base() -> None:
    """The latencies of two trials may be of a busy hour and an idle one."""
    best, other = (
        point(1, "gptq(bits=4)", 1.01, 0.35, 0.60, 0.55),
        point(2, "rtn(bits=4)", 1.03, 0.35, 0.60, 0.50),
    )
    busy = tuple(
        m.model_copy(update={"value": 3 * m.value}) if m.name == "decode_latency" else m
        for m in other.measurements
    )
    late = other.model_copy(update={"measurements": busy})
    found = choose((baseline(), best, late))
    assert found.runner_up is not None
    assert "per token" not in (found.runner_up_reason or "")
    untimed = tuple(m for m in busy if m.name != "speedup")
    alone = choose((baseline(), best, late.model_copy(update={"measurements": untimed})))
    assert "per token" in (alone.runner_up_reason or "")


def test_a_model_that_fits_already_is_told_so_first() -> None:
    found = choose(several(), max_memory_gb=2)
    assert found.reason.startswith("the model fits already, uncompressed (memory <= 2 GB); ")
    assert found.episode == 1


def test_where_the_model_fits_nothing_beyond_the_guard_takes_its_place() -> None:
    results = (baseline(), point(1, "rtn(bits=3)", 1.5, 0.3, 0.6, 0.5))
    found = choose(results, max_memory_gb=2)
    assert (found.episode, found.runner_up, found.meets_limits) == (0, 1, True)
    assert "has its price: the least is that of episode 1" in found.reason
    assert "perplexity +50.0 %" in found.reason
    assert choose(results, max_memory_gb=2, max_accuracy_loss=60).episode == 1  # their own loss


def test_where_it_does_not_fit_the_price_is_said() -> None:
    results = (baseline(), point(1, "rtn(bits=3)", 1.5, 0.3, 0.6, 0.5))
    found = choose(results, max_memory_gb=0.5)
    assert (found.episode, found.meets_limits) == (1, True)
    assert found.reason.startswith("fits only at a price: perplexity +50.0 %; ")


def test_a_limit_on_quality_alone_is_met_by_the_base_without_a_word() -> None:
    assert not choose(several(), max_accuracy_loss=5).reason.startswith("the model fits")


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        ({"top1_agreement": 0.42}, 2), ({"top1_agreement": 0.80}, 1),
        ({"kl": 0.30}, 2), ({"kl": 0.20}, 1),
    ],
)  # fmt: skip
def test_a_model_that_says_other_things_is_not_recommended_for_its_perplexity(
    changes: dict[str, float], chosen: int
) -> None:
    """The first is smaller and as good in perplexity as the second."""
    results = (
        baseline(),
        ok(1, "rtn(bits=3)", {**_half(0.3), **changes}),
        ok(2, "rtn(bits=8)", {**_half(0.5), "top1_agreement": 0.97}),
    )
    assert choose(results).episode == chosen
    assert choose(results, max_memory_gb=0.6).episode == chosen


def _half(size: float) -> dict[str, float]:
    latency, memory = BASE["decode_latency"] / 2, BASE["peak_memory"] / 2
    return {
        "perplexity": 20.2, "size": BASE["size"] * size, "decode_latency": latency,
        "peak_memory": memory, "speedup": 2.0, "compression_ratio": 1 / size, "kl": 0.01,
    }  # fmt: skip


def test_changed_tokens_are_said_where_they_are_many() -> None:
    many = ok(1, "rtn(bits=3)", {**_half(0.3), "top1_agreement": 0.8})
    assert "20 of 100 next tokens changed" in choose((baseline(), many)).reason
    few = ok(1, "rtn(bits=3)", {**_half(0.3), "top1_agreement": 0.95})
    assert "next tokens" not in choose((baseline(), few)).reason


def test_speed_counts_for_the_choice_without_limits() -> None:
    """The smallest within 5 % decodes at 0.8 of the speed: too slow to be the default choice."""
    results = (
        baseline(),
        point(1, "rtn(bits=4)", 1.02, 0.30, 1 / 0.8, 0.5),
        point(2, "rtn(bits=8)", 1.03, 0.60, 1 / 0.95, 0.6),
    )
    assert choose(results).episode == 2


def test_what_only_the_interval_leaves_open_is_recommended_as_open() -> None:
    close = measurement("perplexity_ratio", 1.04, 0.01)
    result = point(1, "gptq(bits=4)", 1.04, 0.35, 0.6, 0.5)
    result = result.model_copy(update={"measurements": (*result.measurements, close)})
    found = choose((baseline(), result), max_accuracy_loss=5)
    assert (found.episode, found.meets_limits, found.nearest) == (1, None, None)
    assert "no artifact is shown to meet every limit (quality loss <= 5 %)" in found.reason
    assert "which may be +2.0 % to +6.0 %) is not shown to be <= 5 %" in found.reason
    sure = choose((baseline(), result), max_accuracy_loss=6)
    assert (sure.episode, sure.meets_limits) == (1, True)


def test_the_named_benchmark_decides_and_is_said() -> None:
    base = scored(baseline(), 0.6)
    keeps = scored(point(1, "gptq(bits=4)", 1.09, 0.35, 0.6, 0.5), 0.6, half=0.005)
    loses = scored(point(2, "rtn(bits=4)", 1.001, 0.33, 0.6, 0.5), 0.5, half=0.005)
    found = choose((base, keeps, loses))
    assert found.episode == 1
    assert "score +0.0 %, perplexity +9.0 %" in found.reason
    assert "score -16.7 % instead of +0.0 %" in found.runner_up_reason


def test_a_score_within_the_users_loss_does_not_excuse_a_model_that_says_other_things() -> None:
    base = scored(baseline(), 0.6)
    other = scored(ok(1, "rtn(bits=3)", {**_half(0.3), "top1_agreement": 0.42}), 0.6, half=0.005)
    sound = scored(ok(2, "rtn(bits=8)", {**_half(0.5), "top1_agreement": 0.97}), 0.6, half=0.005)
    assert choose((base, other, sound), max_accuracy_loss=5).episode == 2


def test_what_is_open_and_beyond_the_guard_is_no_choice() -> None:
    speed = measurement("speedup", 1.6, 0.1)
    slow = ok(1, "rtn(bits=2)", {**_half(0.3), "perplexity": 40.0})
    others = tuple(m for m in slow.measurements if m.name != "speedup")
    found = choose(
        (baseline(), slow.model_copy(update={"measurements": (*others, speed)})), min_speedup=1.5
    )
    assert (found.episode, found.nearest) == (None, 1)


def test_losses_that_read_alike_are_not_compared() -> None:
    results = (
        baseline(),
        point(1, "gptq(bits=4)", 1.0100, 0.35, 0.6, 0.5),
        point(2, "rtn(bits=4)", 1.0103, 0.30, 0.6, 0.5),
    )
    assert choose(results).runner_up_reason == "17 % larger"
