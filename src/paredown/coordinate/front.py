"""`paredown front`: find plans along the curve of a model, build, reload and measure each."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paredown.artifact.decoded import base_folder
from paredown.coordinate.setup import (
    calibration_need,
    check_enough,
    check_text,
    choose_device,
    evaluation_need,
    open_base,
)
from paredown.errors import ConfigError
from paredown.hardware.detect import detect
from paredown.methods import registry
from paredown.methods.shared.units import choices_of
from paredown.pipeline.bench import Bench, Clock, TrialFailed, discard, tidy
from paredown.pipeline.build import build
from paredown.pipeline.disk import require_disk
from paredown.pipeline.executors.local import LocalExecutor
from paredown.pipeline.messages import JudgeJob, PlansJob
from paredown.report.curve import RECORD_FILE, write_curve
from paredown.runtimes.registry import engine
from paredown.spec.front import CurveRecord, FrontPoint
from paredown.spec.infer import infer_spec
from paredown.spec.notation import shared
from paredown.spec.packed import weights_bytes
from paredown.spec.progress import StageProgress
from paredown.spec.reading import read_object
from paredown.spec.requests import FrontRequest
from paredown.spec.run import CalibrationConfig, EvaluateConfig
from paredown.spec.strategy import Step, Strategy
from paredown.spec.target import Target
from paredown.store.atomic import require_writable

_FOREVER_S = 365 * 86400.0
_WORK = "work"
"""Folder in which points are built; gone at the end."""
_CHANGEABLE = {"device", "trust_remote_code", "data_dir"}
"""Settings that may differ when a folder is gone on with: they change no plan."""

Watch = Callable[[str], StageProgress]
"""Gives for each point, by name, who is told of its progress."""


def _nobody(name: str) -> StageProgress:
    return lambda stage, share, message: None


def trace_curve(request: FrontRequest, out: Path, *, watch: Watch = _nobody) -> CurveRecord:
    """The curve of a model, in the folder `out`; goes on with what is there already.

    Args:
        out: new folder, or one of the same request that was interrupted.

    Raises:
        ConfigError: the request is wrong, or `out` holds something else.
    """
    engine(request.runtime)  # what is missing is told before anything is loaded
    require_writable(out)
    text = check_text(request.data, request.source, request.data_dir)
    calibration = CalibrationConfig(**shared(request, CalibrationConfig))
    evaluate = EvaluateConfig(tokens=request.tokens, window=request.window)
    target = Target(device=choose_device(request.device, detect()), runtime=request.runtime)
    with LocalExecutor() as executor:
        executor.start()  # torch is imported there while the request is checked here
        folder = base_folder(request.model)
        spec = infer_spec(folder, name=request.model)
        # The largest plan there is: what it needs of the disk, every other one has.
        _, most = choices_of(spec, request.runtime).interval
        largest = registry.for_runtime(f"mixed(size={most})", request.runtime)
        registry.check(largest, spec, target)
        needs = [calibration_need(calibration), evaluation_need(evaluate, spec)]
        check_enough(text, folder, needs)
        require_disk([largest], spec, out)
        base = open_base(request.model, folder, spec)
        record = _open(request, out, base.hash)
        bench = Bench(
            base=base,
            text=text,
            calibration=calibration,
            evaluate=evaluate,
            device=target.device,
            seed=request.seed,
            executor=executor,
            runtime=request.runtime,
            trust_remote_code=request.trust_remote_code,
        )
        return _Tracer(bench, request, out, watch).run(record)


def _open(request: FrontRequest, out: Path, sha256: str) -> CurveRecord:
    """What the folder holds of this request, or an empty record.

    Raises:
        ConfigError: it holds the curve of another request or model, or other files.
    """
    asked = request.model_dump(mode="json", exclude=_CHANGEABLE)
    path = out / RECORD_FILE
    if not path.exists():
        if out.exists() and any(f.name != _WORK for f in out.iterdir()):
            raise ConfigError(f"{out} exists and holds no curve; choose a new folder")
        return CurveRecord(request=asked, model=request.model, model_sha256=sha256)
    record = CurveRecord.model_validate(read_object(path))
    changed = [name for name, value in asked.items() if record.request.get(name) != value]
    if changed or record.model_sha256 != sha256:
        what = ", ".join(changed) if changed else "the weights of the model"
        raise ConfigError(f"{out} holds the curve of another request ({what}); choose a new folder")
    return record


@dataclass(frozen=True)
class _Tracer:
    """Takes a record from where it is to its end, writing it after every point."""

    bench: Bench
    request: FrontRequest
    out: Path
    watch: Watch

    def run(self, record: CurveRecord) -> CurveRecord:
        work = self.out / _WORK
        shutil.rmtree(work, ignore_errors=True)  # what a killed run left half-way
        work.mkdir(parents=True)
        if not record.points:
            record = self._planned(record, work)
        for i, point in enumerate(record.points):
            if not point.is_done:
                points = list(record.points)
                points[i] = self._measured(point, work)
                record = record.model_copy(update={"points": tuple(points)})
                write_curve(self.out, record)
        shutil.rmtree(work, ignore_errors=True)
        write_curve(self.out, record)
        return record

    def _planned(self, record: CurveRecord, work: Path) -> CurveRecord:
        """With the plans along the curve, none of them measured."""
        bench = self.bench
        clock = Clock(bench, work, _FOREVER_S, self.watch("plans"))
        amount = bench.calibration.amount
        job = PlansJob(
            device=bench.device, runtime=bench.runtime, trust_remote_code=bench.trust_remote_code,
            model=bench.base.folder, model_name=bench.base.name, model_hash=bench.base.hash,
            text=bench.text, samples=amount.wanted, least_samples=amount.least,
            length=bench.calibration.length, seed=bench.seed, points=self.request.points,
        )  # fmt: skip
        try:
            found = clock.run(job)
        except TrialFailed as error:
            raise ConfigError(f"no plans were found: {error.failure.message}") from None
        finally:
            tidy(work)
        uniform = found.uniform if self.request.uniform else ()
        points = [
            *(
                FrontPoint(name=f"uniform-{i:02d}", kind="uniform", plan=plan)
                for i, plan in enumerate(uniform, 1)
            ),
            *(
                FrontPoint(name=f"mixed-{i:02d}", kind="mixed", plan=plan)
                for i, plan in enumerate(found.plans, 1)
            ),
        ]
        made = {"points": tuple(points), "plans_s": clock.elapsed}
        record = record.model_copy(update=made)
        write_curve(self.out, record)
        return record

    def _measured(self, point: FrontPoint, work: Path) -> FrontPoint:
        """Build the artifact of a plan, prove that it reloads, measure it, and let it go."""
        bench, watch = self.bench, self.watch(point.name)
        start = time.monotonic()
        params = {"plan": point.plan.by_layer, "runtime": self.request.runtime}
        strategy = registry.canonical(Strategy(steps=(Step(method="mixed", params=params),)))
        artifact = work / "artifact"
        built = build(bench, strategy, work, artifact, timeout_s=_FOREVER_S, watch=watch)
        if built.failure is not None:
            return point.model_copy(update={"failure": built.failure.message})
        job = JudgeJob(
            device=bench.device, runtime=bench.runtime, trust_remote_code=bench.trust_remote_code,
            model=artifact, base_bytes=weights_bytes(bench.base.folder), held_out=bench.held_out,
        )  # fmt: skip
        try:
            found = Clock(bench, work, _FOREVER_S, watch).run(job)
        except TrialFailed as error:
            return point.model_copy(update={"failure": error.failure.message})
        finally:
            tidy(work)
            discard(artifact)
        size = next(m.value for m in found.measurements if m.name == "size")
        if size > point.plan.nbytes:
            raise AssertionError(f"{point.name}: {size} bytes, at most {point.plan.nbytes} planned")
        took = {"measurements": found.measurements, "seconds": time.monotonic() - start}
        return point.model_copy(update=took)
