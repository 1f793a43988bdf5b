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
    assert beats(rival, candidate(kl=0.2), baseline())
    assert not beats(rival, candidate(), baseline())  # a tie
    assert not beats(rival, candidate(kl=0.2, size=99e6), baseline())
    del_kl = {name: value for name, value in GOOD.items() if name != "kl"}
    assert not beats(rival, ok(9, "rtn(bits=4)", del_kl), baseline())
    why = why_not_scored(candidate(kl=0.2), (baseline(), failed(2), rival))
    assert why == (
        "episode 1, gptq(bits=4), is no worse in kl, size, decode_latency, peak_memory"
    )  # fmt: skip
    assert why_not_scored(candidate(kl=0.05), (baseline(), failed(2), rival)) is None


def test_a_limit_that_is_missed_ends_it_there() -> None:
    broken = ("memory 2 GB > 1 GB",)
    assert why_not_scored(candidate(), (), broken) == "it misses a limit (memory 2 GB > 1 GB)"


def test_speed_is_that_of_the_comparison_in_turns_where_it_was_taken() -> None:
    """The rival's latency was taken while the machine was busy: in turns it is the faster one."""
    rival = ok(1, "gptq(bits=4)", GOOD | {"decode_latency": 20.0, "speedup": 2.0})
    assert beats(rival, candidate(kl=0.2, speedup=1.5), baseline())
    assert not beats(rival, candidate(kl=0.2, speedup=2.5), baseline())
    # Within what a repeat differs by.
    assert beats(rival, candidate(kl=0.2, speedup=2.02), baseline())
    # Without the comparison, two latencies of one machine; of two machines they say nothing.
    alone = ok(1, "gptq(bits=4)", GOOD).model_copy(update={"machine": "one"})
    base = baseline().model_copy(update={"machine": "one"})
    assert beats(alone, candidate(kl=0.2).model_copy(update={"machine": "one"}), base)
    assert not beats(alone, candidate(kl=0.2).model_copy(update={"machine": "two"}), base)
