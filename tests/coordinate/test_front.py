"""`paredown front`: every point written once it is done, gone on with after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paredown.coordinate import front
from paredown.coordinate.front import trace_curve
from paredown.errors import ConfigError
from paredown.pipeline.bench import TrialFailed
from paredown.pipeline.build import Built
from paredown.pipeline.messages import EvaluateDone, JudgeJob, PlansDone, PlansJob
from paredown.report.curve import rows
from paredown.spec.plan import PlanRecord, UnitPlan
from paredown.spec.requests import FrontRequest
from paredown.spec.result import Failure, FailureKind, Measurement
from paredown.spec.units import Unit
from paredown.testing.tiny import tiny_model

LAYER = "model.layers.0.mlp.down_proj"


class Killed(Exception):
    """Stands for a kill."""


class Bench:
    """Answers jobs without running any; ends after `until` judged points."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: list[str] = []
        self.until = 100
        self.broken: set[str] = set()
        monkeypatch.setattr(front, "LocalExecutor", lambda: self)
        monkeypatch.setattr(front, "build", self.build)
        monkeypatch.setattr(front, "Clock", lambda *a, **k: self)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def start(self) -> None:
        """As an executor's."""

    elapsed = 1.0

    def build(self, bench: Any, strategy: Any, folder: Path, out: Path, **_: Any) -> Built:
        word = strategy.steps[0].params["plan"][LAYER]
        if word in self.broken:
            failure = Failure(kind=FailureKind.OUT_OF_MEMORY, message="no room", stage="compress")
            return Built(failure=failure)
        out.mkdir(parents=True)
        header = b'{"__metadata__":{"format":"pt"}}'
        file = len(header).to_bytes(8, "little") + header
        (out / "model.safetensors").write_bytes(file)
        return Built()

    def run(self, job: Any) -> Any:
        if isinstance(job, PlansJob):
            self.jobs.append("plans")
            return PlansDone(
                plans=tuple(plan(w, 0.1 * i) for i, w in enumerate(("6a32", "5a32", "4a32"), 1)),
                uniform=(plan("3a32", None), plan("8a32", None)),
            )
        assert isinstance(job, JudgeJob)
        assert (job.model / "model.safetensors").exists()
        if len(self.jobs) > self.until:
            raise Killed
        self.jobs.append("judge")
        size, kl = 1000.0 * len(self.jobs), 1.0 / len(self.jobs)
        return EvaluateDone(measurements=(said("size", size), said("kl", kl)), notes=(), speed=())


def said(name: str, value: float) -> Measurement:
    unit = Unit.BYTES if name == "size" else Unit.NATS_PER_TOKEN
    kl = {"n": 4, "stderr": 0.001} if name == "kl" else {"n": 1, "stderr": None}
    return Measurement(
        name=name, value=value, unit=unit, lower_is_better=True, source="measured", how="", **kl
    )


def plan(word: str, kl: float | None) -> PlanRecord:
    unit = UnitPlan(layers=(LAYER,), option=word, nbytes=10, kl=kl)
    return PlanRecord(parameters=1000, nbytes=100_000, kl=kl, units=(unit,))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def request(model: Path, **changes: Any) -> FrontRequest:
    return FrontRequest(model=str(model), points=3, device="cpu", samples=8, length=64, **changes)


def test_all_points_are_measured_once(model: Path, bench: Bench, tmp_path: Path) -> None:
    record = trace_curve(request(model), tmp_path / "out")
    assert bench.jobs == ["plans", *["judge"] * 5]
    names = ["uniform-01", "uniform-02", "mixed-01", "mixed-02", "mixed-03"]
    assert [p.name for p in record.points] == names
    assert len(rows(record)) == 5
    assert not (tmp_path / "out" / "work").exists()
    assert (tmp_path / "out" / "front.html").exists()
    again = trace_curve(request(model), tmp_path / "out")
    assert again == record
    assert len(bench.jobs) == 6  # nothing was done again


def test_a_kill_loses_the_point_at_hand(model: Path, bench: Bench, tmp_path: Path) -> None:
    bench.until = 3
    with pytest.raises(Killed):
        trace_curve(request(model), tmp_path / "out")
    bench.until = 100
    record = trace_curve(request(model), tmp_path / "out")
    assert bench.jobs == ["plans", *["judge"] * 5]
    assert all(p.measurements for p in record.points)


@pytest.mark.slow
def test_a_point_that_fails_is_told_and_the_others_go_on(
    model: Path, bench: Bench, tmp_path: Path
) -> None:
    bench.broken = {"5a32"}
    record = trace_curve(request(model, uniform=False), tmp_path / "out")
    assert [p.failure for p in record.points] == [None, "no room", None]
    assert bench.jobs == ["plans", "judge", "judge"]


def test_no_plans_is_an_error_of_one_line(
    model: Path, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(job: Any) -> Any:
        failure = Failure(kind=FailureKind.METHOD_ERROR, message="too little text", stage="plans")
        raise TrialFailed(failure, config_error=True)

    monkeypatch.setattr(bench, "run", fails)
    with pytest.raises(ConfigError, match="no plans were found: too little text"):
        trace_curve(request(model), tmp_path / "out")


@pytest.mark.slow
def test_another_request_is_refused(model: Path, bench: Bench, tmp_path: Path) -> None:
    trace_curve(request(model), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"the curve of another request \(seed\)"):
        trace_curve(request(model, seed=1), tmp_path / "out")
    other = tiny_model(tmp_path / "other", seed=1)
    trace_curve(request(model, trust_remote_code=True), tmp_path / "out")  # changes no plan
    with pytest.raises(ConfigError, match="model"):
        trace_curve(request(other), tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="holds no curve"):
        trace_curve(request(model), tmp_path / "full")


@pytest.mark.slow
def test_a_real_curve(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAREDOWN_HOME", str(tmp_path / "home"))
    asked = request(model, uniform=False, tokens=1024, window=64)
    record = trace_curve(asked, tmp_path / "out")
    kls = [row.judged.kl for row in rows(record)]
    assert len(kls) == 3
    assert kls == sorted(kls, reverse=True)
