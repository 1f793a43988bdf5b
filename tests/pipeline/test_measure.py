"""Both halves of a trial on jobs that are answered at once: what becomes of the answers."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.pipeline import trial
from paredown.pipeline.bench import Bench, Clock, TrialFailed
from paredown.pipeline.build import Built, build
from paredown.pipeline.messages import (
    AnyDone,
    AnyJob,
    CompressDone,
    EvaluateJob,
    Failed,
    ScoreJob,
    VerifyJob,
)
from paredown.spec.result import Failure, FailureKind, TrialResult
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits
from tests.coordinate.fake_run import FakeExecutor, failing, fake_run
from tests.search.search_fakes import use_fakes


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def make_bench(folder: Path, executor: FakeExecutor, *benchmarks: str) -> Bench:
    bench = fake_run(folder, executor)[0].bench
    evaluate = bench.evaluate.model_copy(update={"benchmarks": benchmarks})
    return replace(bench, evaluate=evaluate)


def whole(
    bench: Bench, strategy: Strategy, folder: Path, *, limits: Limits | None = None
) -> TrialResult:
    base = trial.measure(bench, None, folder / "episode_000", episode=0, timeout_s=9)
    mine = folder / "episode_001"
    built = build(bench, strategy, mine, mine / "artifact", timeout_s=9)
    return trial.measure(
        bench, strategy, mine, episode=1, timeout_s=9, built=built, baseline=base, limits=limits
    )


def test_a_result_says_what_was_measured_and_where_it_is(tmp_path: Path) -> None:
    result = whole(make_bench(tmp_path, FakeExecutor()), registry.canonical("round"), tmp_path)
    assert (result.status, result.artifact) == ("ok", "episode_001/artifact")
    assert (result.label, result.kind) == ("round", "quantization")
    assert result.model_size_gb == pytest.approx(384e3 / 1e9)
    assert not (tmp_path / "episode_001" / "job.json").exists()


def test_the_baseline_is_as_fast_as_itself(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, FakeExecutor())
    base = trial.measure(bench, None, tmp_path / "episode_000", episode=0, timeout_s=9)
    speedup = base.get("speedup")
    assert speedup is not None
    assert (speedup.value, speedup.how) == (1.0, "the baseline itself")
    assert base.artifact is None


def test_a_candidate_that_misses_a_limit_is_not_scored(tmp_path: Path) -> None:
    asked: list[str] = []

    def gate(job: AnyJob, folder: Path) -> Failed | None:
        asked.extend([folder.name] if isinstance(job, ScoreJob) else [])
        return None

    bench = make_bench(tmp_path, FakeExecutor(gate=gate), "gsm8k", "arc_easy")
    result = whole(bench, registry.canonical("round"), tmp_path, limits=Limits(target_ratio=50.0))
    assert asked == ["episode_000"]
    assert result.not_scored is not None
    assert result.not_scored.benchmarks == ("gsm8k", "arc_easy")
    assert result.not_scored.reason.startswith("it misses a limit (")
    assert result.value("gsm8k") is None
    worth = whole(bench, registry.canonical("round"), tmp_path / "second")
    assert (worth.not_scored, worth.value("gsm8k")) == (None, 0.5)


def test_a_failure_while_measuring_leaves_no_artifact(tmp_path: Path) -> None:
    def gate(job: AnyJob, folder: Path) -> Failed | None:
        mine = isinstance(job, EvaluateJob) and folder.name == "episode_001"
        return failing(FailureKind.OUT_OF_MEMORY, "too much") if mine else None

    result = whole(
        make_bench(tmp_path, FakeExecutor(gate=gate)), registry.canonical("round"), tmp_path
    )
    assert result.failure is not None
    assert result.failure.kind is FailureKind.OUT_OF_MEMORY
    assert result.wall_s == pytest.approx(result.compress_s + result.evaluate_s, abs=0.05)
    assert not (tmp_path / "episode_001" / "artifact").exists()


def test_what_could_not_be_built_is_not_measured(tmp_path: Path) -> None:
    executor = FakeExecutor()
    failure = Failure(kind=FailureKind.TIMEOUT, message="stopped", stage="compress")
    result = trial.measure(
        make_bench(tmp_path, executor), registry.canonical("round"), tmp_path / "episode_001",
        episode=1, timeout_s=9, built=Built(failure=failure, seconds=3.0),
    )  # fmt: skip
    assert result.failure == failure
    assert result.compress_s == 3.0
    assert executor.timeouts == {}


def test_a_base_that_cannot_be_measured_ends_it(tmp_path: Path) -> None:
    executor = FakeExecutor(gate=lambda job, folder: failing(FailureKind.TIMEOUT, "stopped"))
    with pytest.raises(ConfigError, match="the base model could not be measured: stopped"):
        trial.measure(make_bench(tmp_path, executor), None, tmp_path / "b", episode=0, timeout_s=9)


def evaluate_job(bench: Bench) -> EvaluateJob:
    return EvaluateJob(device="cpu", model=bench.base.folder, base_bytes=1, held_out=bench.held_out)


def test_time_in_line_is_the_trials_neither_to_use_nor_to_pay_for(tmp_path: Path) -> None:
    executor = FakeExecutor(waited_s=100.0)
    bench = make_bench(tmp_path, executor)
    clock = Clock(bench, tmp_path / "job", 50.0, None)
    clock.run(evaluate_job(bench))
    executor.waited_s = 0.0
    clock.run(evaluate_job(bench))
    # Nothing was really waited here, so the second job has what was left, and what was "waited".
    assert executor.timeouts["evaluate", "job"] == pytest.approx(150.0, abs=2)
    assert clock.elapsed == pytest.approx(-100.0, abs=2)


def test_no_job_begins_after_the_deadline(tmp_path: Path) -> None:
    executor = FakeExecutor()
    bench = make_bench(tmp_path, executor)
    clock = Clock(bench, tmp_path / "job", 0.01, None)
    time.sleep(0.02)
    with pytest.raises(TrialFailed, match="no time left") as caught:
        clock.run(evaluate_job(bench))
    assert caught.value.failure.kind is FailureKind.TIMEOUT
    assert executor.timeouts == {}


class Reusing(FakeExecutor):
    """Builds in no time, for the first step was there already."""

    def _done(self, job: Any, folder: Path) -> AnyDone:
        done = super()._done(job, folder)
        reused = {"reused_steps": 1, "reused_s": 600.0}
        return done.model_copy(update=reused) if isinstance(done, CompressDone) else done


@pytest.mark.parametrize("stage", [None, VerifyJob, EvaluateJob])
def test_reused_steps_are_booked_whatever_becomes_of_the_trial(
    tmp_path: Path, stage: type | None
) -> None:
    def gate(job: AnyJob, folder: Path) -> Failed | None:
        fails = stage is not None and isinstance(job, stage) and folder.name == "episode_001"
        return failing(FailureKind.DIVERGED, "not finite") if fails else None

    result = whole(
        make_bench(tmp_path, Reusing(gate=gate)), registry.canonical("cut > round"), tmp_path
    )
    assert result.status == ("ok" if stage is None else "failed")
    assert result.reused_s == 600.0
    assert result.wall_s < 60  # what the clock says stands beside it
    assert result.booked_s == result.wall_s + 600.0
    if stage is None:
        assert any("the result of cut was there" in note for note in result.notes)
