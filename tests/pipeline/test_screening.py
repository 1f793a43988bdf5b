"""Benchmarks are for candidates that survive the cheap measures."""

from __future__ import annotations

from paredown.pipeline.screening import beats, why_not_scored
from paredown.spec.result import TrialResult
from tests.report.report_samples import baseline, failed, ok

GOOD = {"kl": 0.1, "size": 100e6, "decode_latency": 10.0, "peak_memory": 500e6}


def candidate(**changes: float) -> TrialResult:
    return ok(9, "rtn(bits=4)", GOOD | changes)


def test_a_model_that_is_beaten_in_every_respect_needs_no_benchmark() -> None:
    rival = ok(1, "gptq(bits=4)", GOOD)
    assert beats(rival, candidate(kl=0.2))
    assert not beats(rival, candidate())  # a tie
    assert not beats(rival, candidate(kl=0.2, size=99e6))
    del_kl = {name: value for name, value in GOOD.items() if name != "kl"}
    assert not beats(rival, ok(9, "rtn(bits=4)", del_kl))
    why = why_not_scored(candidate(kl=0.2), (baseline(), failed(2), rival))
    assert why == (
        "episode 1, gptq(bits=4), is no worse in kl, size, decode_latency, peak_memory"
    )  # fmt: skip
    assert why_not_scored(candidate(kl=0.05), (baseline(), failed(2), rival)) is None


def test_a_limit_that_is_missed_ends_it_there() -> None:
    broken = ("memory 2 GB > 1 GB",)
    assert why_not_scored(candidate(), (), broken) == "it misses a limit (memory 2 GB > 1 GB)"
