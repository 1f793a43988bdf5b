"""Results: measurements that can be trusted, failures with a cause."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from paredown.spec.result import (
    Failure,
    FailureKind,
    Measurement,
    NotScored,
    TrialResult,
    flat_fields,
)
from paredown.spec.strategy import parse_strategy
from paredown.spec.units import Unit


def measurement(**changes: Any) -> Measurement:
    settings: dict[str, Any] = {
        "name": "perplexity", "value": 12.5, "unit": Unit.PERPLEXITY, "n": 4, "stderr": 0.2,
        "lower_is_better": True, "source": "measured", "how": "in words",
    }  # fmt: skip
    return Measurement.model_validate(settings | changes)


def trial(**changes: Any) -> TrialResult:
    settings: dict[str, Any] = {
        "episode": 1, "strategy": parse_strategy("rtn(bits=4)"), "label": "rtn", "kind": "x",
        "status": "ok",
    }  # fmt: skip
    return TrialResult.model_validate(settings | changes)


FAILURE = Failure(kind=FailureKind.TIMEOUT, message="took too long", stage="compress")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_measurement_is_finite(value: float) -> None:
    with pytest.raises(ValidationError, match="record a Failure instead"):
        measurement(value=value)


@pytest.mark.parametrize(("n", "stderr"), [(1, 0.1), (2, None)])
def test_a_standard_error_belongs_to_several_samples(n: int, stderr: float | None) -> None:
    with pytest.raises(ValidationError, match="stderr if and only if n > 1"):
        measurement(n=n, stderr=stderr)
    measurement(n=n, stderr=0.1 if n > 1 else None)


@pytest.mark.parametrize("n", [0, -1])
def test_a_measurement_has_samples(n: int) -> None:
    with pytest.raises(ValidationError, match="n >= 1 samples"):
        measurement(n=n, stderr=None)


@pytest.mark.parametrize(
    "change", [{"unit": "furlongs"}, {"source": "guessed"}, {"no_such_field": 1}]
)
def test_unknown_words_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        measurement(**change)


def test_a_failed_trial_has_a_failure_and_a_finished_one_none() -> None:
    trial(status="failed", failure=FAILURE)
    for bad in ({"status": "failed"}, {"status": "ok", "failure": FAILURE}):
        with pytest.raises(ValidationError, match="a failed trial has a failure"):
            trial(**bad)


def test_results_survive_json() -> None:
    for one in (
        trial(measurements=(measurement(),), unmet=("x",), notes=("y",), accuracy=0.5),
        trial(status="failed", failure=FAILURE),
        trial(episode=0, strategy=None, kind="baseline"),
    ):
        assert TrialResult.model_validate_json(one.model_dump_json()) == one


def test_fields_of_a_later_minor_version_are_passed_over() -> None:
    data = trial().model_dump(mode="json") | {"added_later": 1}
    assert TrialResult.model_validate(data) == trial()


def test_measurements_are_found_by_name() -> None:
    one = trial(measurements=(measurement(), measurement(name="kl", value=0.1)))
    assert one.value("kl") == 0.1
    assert one.get("perplexity") == measurement()
    assert one.value("speedup") is None
    assert one.get("speedup") is None


def test_flat_fields_repeat_measurements_in_their_own_units() -> None:
    found = flat_fields(
        (
            measurement(name="accuracy", value=0.5, unit=Unit.FRACTION),
            measurement(name="decode_latency", value=7.0, unit=Unit.MS_PER_TOKEN),
            measurement(name="peak_memory", value=2.5e9, unit=Unit.BYTES),
            measurement(name="size", value=0.25e9, unit=Unit.BYTES),
            measurement(name="compression_ratio", value=3.0, unit=Unit.RATIO),
        )
    )
    assert found == {
        "accuracy": 0.5, "latency_ms": 7.0, "memory_gb": 2.5, "model_size_gb": 0.25,
        "energy_joules": None, "compression_ratio": 3.0,
    }  # fmt: skip
    trial(**found)


def test_what_was_not_measured_is_none() -> None:
    assert set(flat_fields(()).values()) == {None}


def test_why_there_are_no_scores_is_a_field_with_words() -> None:
    why = NotScored(benchmarks=("gsm8k", "arc_easy"), reason="it misses a limit (ratio 1 x < 2 x)")
    assert why.words == "not scored on gsm8k, arc_easy: it misses a limit (ratio 1 x < 2 x)"
    found = trial(notes=("slow",), not_scored=why)
    assert found.remarks == ("slow", why.words)
    assert TrialResult.model_validate_json(found.model_dump_json()) == found
    assert trial().not_scored is None


def test_notes_of_schema_1_say_why_there_are_no_scores() -> None:
    note = "not scored on lm-eval:piqa, arc_easy: episode 1, rtn: a, is no worse in kl, size"
    found = trial(notes=("slow", note, "plain transformers loads it (checked)"))
    assert found.not_scored == NotScored(
        benchmarks=("lm-eval:piqa", "arc_easy"), reason="episode 1, rtn: a, is no worse in kl, size"
    )
    assert found.notes == ("slow",)
    assert found.remarks == ("slow", note, "plain transformers loads it (checked)")
    assert trial(notes=("scored on half",)).not_scored is None


def test_a_kind_of_failure_that_is_gone_is_read_as_the_methods() -> None:
    old = {"kind": "unsupported", "message": "no kernel", "stage": "compress"}
    assert Failure.model_validate(old).kind is FailureKind.METHOD_ERROR
    assert "unsupported" not in [str(kind) for kind in FailureKind]
