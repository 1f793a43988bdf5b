"""Results of several engines judged together."""

from __future__ import annotations

from paredown.judge.across import across
from paredown.spec.result import TrialResult
from paredown.spec.run import OBJECTIVES
from paredown.spec.target import Limits
from tests.report.report_samples import ok


def small(
    *, perplexity: float = 20.4, mb: float = 90, ms: float, memory: float = 300e6, episode: int = 1
) -> TrialResult:
    return ok(
        episode, "rtn(bits=4)",
        {"perplexity": perplexity, "size": mb * 1e6, "decode_latency": ms, "peak_memory": memory,
         "speedup": 30 / ms, "compression_ratio": 270 / mb, "perplexity_ratio": perplexity / 20,
         "kl": 0.03, "top1_agreement": 0.95},
    )  # fmt: skip


def base(ms: float) -> TrialResult:
    return ok(
        0, None,
        {"perplexity": 20.0, "size": 270e6, "decode_latency": ms, "peak_memory": 900e6,
         "speedup": 1.0, "compression_ratio": 1.0, "perplexity_ratio": 1.0},
    )  # fmt: skip


def test_the_fastest_of_those_recommended_is_taken_and_named() -> None:
    slow, fast = small(ms=20), small(ms=8)
    found = across({"a": [base(30), slow], "b": [base(12), fast]}, OBJECTIVES, Limits())
    assert found.chosen is not None
    assert (found.chosen.runtime, found.chosen.result.episode) == ("b", 1)
    assert found.reason.endswith("8.0 ms, beside a 20.0 ms")
    front = {(p.runtime, p.result.episode) for p in found.points if p.on_front}
    # The base of `a` is as good as that of `b` in everything but time, and slower.
    assert front == {("b", 0), ("b", 1)}


def test_another_engine_may_be_smaller_and_slower() -> None:
    found = across(
        {"a": [base(30), small(ms=20, mb=60)], "b": [base(30), small(ms=8)]}, OBJECTIVES, Limits()
    )
    front = {(p.runtime, p.result.episode) for p in found.points if p.on_front and p.result.episode}
    assert front == {("a", 1), ("b", 1)}


def test_what_meets_the_limits_goes_before_what_is_faster() -> None:
    limits = Limits(max_accuracy_loss=5.0)
    bad = small(perplexity=30.0, ms=2)
    found = across({"a": [base(30), small(ms=20)], "b": [base(30), bad]}, OBJECTIVES, limits)
    assert found.chosen is not None
    assert found.chosen.runtime == "a"


def test_nothing_measured_is_no_choice() -> None:
    assert across({"a": [], "b": []}, OBJECTIVES, Limits()).chosen is None
