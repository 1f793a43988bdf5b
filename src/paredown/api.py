"""The public functions, as `paredown.optimize` and so on.

import paredown

front = paredown.optimize("demo", data="pydoc", episodes=6)
model = paredown.load(front.best.artifact)
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.artifact.decoded import base_folder
from paredown.artifact.source import spec_of
from paredown.coordinate.deliver import deploy as deploy  # public
from paredown.coordinate.run import DEFAULT_FOLDER, run_experiment
from paredown.coordinate.setup import (
    calibration_need,
    check_enough,
    check_text,
    choose_device,
    evaluation_need,
    open_base,
)
from paredown.coordinate.steering import Steering as Steering  # public
from paredown.errors import ConfigError, MethodError
from paredown.evaluate.task_data import check_benchmarks
from paredown.hardware.detect import detect
from paredown.methods import registry
from paredown.methods.registry import register_method as register_method  # public
from paredown.pipeline import trial
from paredown.pipeline.bench import Base, Bench
from paredown.pipeline.build import build
from paredown.pipeline.disk import require_disk
from paredown.pipeline.executors.local import LocalExecutor
from paredown.pipeline.messages import ITEMS, TextSpec
from paredown.report.figures import search_space_figure
from paredown.report.findings import Judged, find
from paredown.report.frame import frame
from paredown.report.notebook import front_card, in_short
from paredown.report.style import Paint
from paredown.runtimes.registry import engine
from paredown.spec import infer
from paredown.spec.benchmarks import check_text_name, split_request
from paredown.spec.explain import checked, checked_call
from paredown.spec.model import ModelSpec
from paredown.spec.progress import Progress, StageProgress, unheard
from paredown.spec.result import LoadsIn, TrialResult
from paredown.spec.run import CalibrationConfig, DeviceName, EvaluateConfig, RunConfig
from paredown.spec.strategy import Strategy
from paredown.spec.target import Target
from paredown.store import experiment
from paredown.store.atomic import require_writable
from paredown.store.experiment import ExperimentRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Listener = Callable[[str, dict[str, Any]], None]
_FOREVER_S = 365 * 86400.0


@contextmanager
def _telling(config: RunConfig) -> Iterator[Listener]:
    """Progress on standard error, where somebody is there to read it: a terminal or a notebook."""
    from paredown.report.console import make_console
    from paredown.report.live import Display, RunProgress

    console = make_console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield Display()
        return
    with RunProgress(console, config.episodes, config.objectives) as shown:
        yield shown


@dataclass(frozen=True, repr=False)
class FrontPoint:
    """One point of the Pareto front: a result, with the path of its artifact."""

    result: TrialResult
    artifact: Path | None
    """Model folder for `paredown.load`; None where it was not kept."""

    def __repr__(self) -> str:
        kept = "not kept" if self.artifact is None else f"{str(self.artifact)!r}"
        return f"FrontPoint({self.result.episode}: {self.result.label}; {kept})"


@dataclass(frozen=True, repr=False)
class Front:
    """The outcome of an experiment."""

    record: ExperimentRecord
    findings: Judged

    @property
    def folder(self) -> Path:
        """The experiment folder, with report and artifacts."""
        return self.record.folder

    @property
    def baseline(self) -> TrialResult | None:
        """The uncompressed model, measured like the others."""
        return self.record.baseline

    @property
    def points(self) -> tuple[FrontPoint, ...]:
        """The results on the Pareto front, by episode."""
        return tuple(self._point(r) for r in self.findings.on_front)

    @property
    def best(self) -> FrontPoint | None:
        """The recommended result; `findings.recommendation.reason` says why."""
        found = self.findings.result(self.findings.recommendation.episode)
        return None if found is None else self._point(found)

    def to_frame(self, *, long: bool = False) -> DataFrame:
        """All results as a pandas frame: a row per episode, or (`long`) per measurement.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame(self.findings, long=long)

    def plot(self, paint: Paint = "method") -> Figure:
        """Compression ratio against loss of quality, as a matplotlib figure.

        Args:
            paint: a colour per `method`, or per `kind` (single methods blue, combinations red).
        """
        return search_space_figure(self.findings, paint)

    def __repr__(self) -> str:
        return in_short(self.findings)

    def _repr_html_(self) -> str:
        return front_card(self.findings)

    def _point(self, result: TrialResult) -> FrontPoint:
        kept = result.artifact
        return FrontPoint(result, None if kept is None else self.record.folder / kept)


@checked_call
def optimize(
    model: str,
    *,
    experiment_name: str | None = None,
    output_dir: str | Path = DEFAULT_FOLDER,
    resume: bool = False,
    listen: Listener | None = None,
    steering: Steering | None = None,
    **settings: Any,
) -> Front:
    """Search for the compressed versions of a model that are worth having.

    Args:
        model: local folder, hub name, or `demo`.
        experiment_name: folder name of the experiment; None makes one from the settings.
        output_dir: where experiments are kept.
        resume: continue an experiment that exists.
        listen: told of `decision`, `progress` and `result` events; None: they are shown as lines
            on standard error if that is a terminal or a notebook.
        steering: its `command("try gptq(bits=3)")` and so on, from another thread, steers the run.
        **settings: fields of `paredown.spec.run.RunConfig`, e.g. `data`, `episodes`, `limits`.

    Raises:
        ConfigError: the request is wrong; nothing was started.
    """
    config = checked(RunConfig, {"model": model, **settings})
    with _telling(config) if listen is None else nullcontext(listen) as told:
        record = run_experiment(
            config,
            name=experiment_name,
            output_dir=Path(output_dir),
            resume=resume,
            listen=told,
            steering=steering,
        )
    return Front(record, find(record))


@checked_call
def read_experiment(folder: str | Path) -> Front:
    """The outcome so far of an experiment folder, finished or running.

    Raises:
        ExperimentError: there is no experiment in `folder`, or a file in it is damaged.
    """
    record = experiment.read_experiment(Path(folder))
    return Front(record, find(record))


@checked_call
def infer_spec(model: str) -> ModelSpec:
    """What is known of a model from its config and headers; no weight is loaded, or downloaded.

    Raises:
        ModelError: there is no such model, or its files are damaged.
    """
    return spec_of(model)


@checked_call
def load(path: str | Path, *, device: str = "cpu", trust_remote_code: bool = False) -> Any:
    """Load an artifact, packed weights staying packed, or any other model folder.

    Returns a transformers model. See `paredown.runtimes.torch.load.load`.
    """
    from paredown.runtimes.torch.load import load as load_folder

    return load_folder(path, device=device, trust_remote_code=trust_remote_code)


@dataclass(frozen=True)
class Compressed:
    """An artifact that was built and proved to reload."""

    folder: Path
    strategy: Strategy
    notes: tuple[str, ...]
    seconds: float
    loads_in: tuple[LoadsIn, ...] = ()
    """The runtimes that load it, and how that is known."""


@checked_call
def compress(
    model: str,
    strategy: str | Strategy,
    output: str | Path,
    *,
    data: str = "pydoc",
    calibration: CalibrationConfig | None = None,
    data_dir: str | Path | None = None,
    device: DeviceName = "auto",
    runtime: str = "torch",
    seed: int = 0,
    trust_remote_code: bool = False,
    watch: StageProgress | None = None,
) -> Compressed:
    """Run one strategy, write the artifact, and prove in a fresh process that it reloads.

    Args:
        model: local folder, hub name, or `demo`.
        strategy: as text (`"gptq(bits=4)"`) or parsed.
        output: new folder for the artifact.
        data: text whose training part calibrates, unless `calibration.source` names another.
        runtime: engine that has to load the artifact; a strategy that it does not hold is refused.

    Raises:
        ConfigError: the request is wrong; nothing was written.
        MethodError: the strategy failed on this model; nothing was left behind.
    """
    calibration = calibration or CalibrationConfig()
    canonical = registry.for_runtime(strategy, runtime)
    output = _new_folder(output)
    text = check_text(data, calibration.source, _folder(data_dir))
    target = Target(device=choose_device(device, detect()), runtime=runtime)
    with LocalExecutor() as executor:
        executor.start()  # torch is imported there while the request is checked here
        folder = base_folder(model, _checking(watch))
        spec = infer.infer_spec(folder, name=model)
        registry.check(canonical, spec, target)
        needs = [calibration_need(calibration)] if registry.reads_data(canonical) else []
        noted = check_enough(text, folder, needs)
        require_disk([canonical], spec, output.parent)
        bench = Bench(
            base=open_base(model, folder, spec, _checking(watch)),
            text=text,
            calibration=calibration,
            evaluate=EvaluateConfig(),
            device=target.device,
            seed=seed,
            executor=executor,
            runtime=runtime,
            trust_remote_code=trust_remote_code,
        )
        # Beside the output, so that the finished artifact can be renamed into its place.
        with tempfile.TemporaryDirectory(prefix=".paredown-", dir=output.parent) as scratch:
            built = build(
                bench, canonical, Path(scratch), output, timeout_s=_FOREVER_S, watch=watch
            )
    if built.failure is not None:
        kind = ConfigError if built.config_error else MethodError
        raise kind(f"{registry.label(canonical)}: {built.failure.message}")
    return Compressed(output, canonical, (*noted, *built.notes), built.seconds, built.loads_in)


@checked_call
def evaluate(
    model: str | Path,
    *,
    base: str | None = None,
    data: str | Sequence[str] = "pydoc",
    config: EvaluateConfig | None = None,
    data_dir: str | Path | None = None,
    device: DeviceName = "auto",
    runtime: str = "torch",
    items: str | Path | None = None,
    only_benchmarks: bool = False,
    trust_remote_code: bool = False,
    watch: StageProgress | None = None,
) -> TrialResult:
    """Measure a model folder: quality on held-out text, benchmarks, latency, memory, size.

    Args:
        model: artifact, local folder, hub name, or `demo`.
        base: to compare with (KL, agreement, ratio); None: the artifact's own, or the model itself.
        data: a text, and any number of benchmarks (see `paredown.spec.benchmarks`).
        runtime: engine in which the model and its base are measured.
        items: folder for the single answers to benchmarks, a file each.
        only_benchmarks: measure nothing else but the size.

    Raises:
        ConfigError: the request is wrong, or the model cannot be measured.
    """
    engine(runtime)  # what is missing is told before anything is loaded
    config, text = _what_to_measure(data, config, _folder(data_dir), only_benchmarks)
    if items is not None:
        require_writable(Path(items))
    target = choose_device(device, detect())
    with LocalExecutor() as executor, tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        executor.start()
        folder = base_folder(str(model), _checking(watch))
        base_model = _base_of(
            folder, base or str(model), is_given=base is not None, progress=_checking(watch)
        )
        if not only_benchmarks:
            check_enough(text, base_model.folder, [evaluation_need(config, base_model.spec)])
        result = trial.measure_folder(
            Bench(
                base=base_model,
                text=text,
                calibration=CalibrationConfig(),
                evaluate=config,
                device=target,
                seed=0,
                executor=executor,
                runtime=runtime,
                trust_remote_code=trust_remote_code,
            ),
            folder,
            Path(scratch),
            label=str(model),
            timeout_s=_FOREVER_S,
            only_benchmarks=only_benchmarks,
            watch=watch,
        )
        if items is not None and config.benchmarks:
            shutil.copytree(Path(scratch) / ITEMS, items, dirs_exist_ok=True)
        return result


def _what_to_measure(
    data: str | Sequence[str],
    config: EvaluateConfig | None,
    data_dir: Path | None,
    only_benchmarks: bool,
) -> tuple[EvaluateConfig, TextSpec]:
    """The benchmarks that `data` names joined to the config, and the text.

    Raises:
        ConfigError: nothing is named, or what is named is not there.
    """
    if not data or not all(data):
        raise ConfigError(f"data = {data!r}: give at least one text or benchmark")
    name, named = split_request([data] if isinstance(data, str) else data)
    config = config or EvaluateConfig()
    benchmarks = tuple(dict.fromkeys((*config.benchmarks, *named)))
    config = config.model_copy(update={"benchmarks": benchmarks})
    check_text_name(name)
    check_benchmarks(config, data_dir)
    if only_benchmarks and not benchmarks:
        raise ConfigError("only benchmarks are to be measured, and none is named; add -d arc_easy")
    return config, check_text(name, None, data_dir)


def _checking(watch: StageProgress | None) -> Progress:
    """What is told before the first stage, as a stage."""
    return unheard if watch is None else partial(watch, "check")


def _base_of(folder: Path, name: str, *, is_given: bool, progress: Progress) -> Base:
    """The base that a model is compared with: as given, else the artifact's own, else itself."""
    from paredown.artifact.description import read_description

    described = None if is_given else read_description(folder)
    base_name = described["base_model"]["name"] if described else name
    found = base_folder(base_name, progress)
    return open_base(base_name, found, infer.infer_spec(found, name=base_name), progress)


def _new_folder(path: str | Path) -> Path:
    """Where an artifact will be written.

    Raises:
        ConfigError: something is there already, or nothing can be written.
    """
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty; choose a new folder")
    require_writable(folder.parent)
    return folder


def _folder(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
