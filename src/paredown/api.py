"""The public functions, as `paredown.optimize` and so on.

import paredown

front = paredown.optimize("demo", data="pydoc", episodes=6)
model = paredown.load(front.best.artifact)
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from paredown.artifact.source import locate
from paredown.coordinate.run import DEFAULT_FOLDER, run_experiment
from paredown.coordinate.setup import check_text, choose_device, open_base
from paredown.coordinate.steering import Steering as Steering  # public
from paredown.errors import ConfigError, MethodError, did_you_mean
from paredown.evaluate.task_data import check_benchmarks
from paredown.hardware.detect import detect
from paredown.methods import registry
from paredown.pipeline import trial
from paredown.pipeline.bench import Bench
from paredown.pipeline.build import build
from paredown.pipeline.executor import LocalExecutor
from paredown.pipeline.messages import ITEMS
from paredown.report.findings import Judged, find
from paredown.spec import infer
from paredown.spec.benchmarks import check_text_name, split_request
from paredown.spec.model import ModelSpec
from paredown.spec.progress import StageProgress
from paredown.spec.result import LoadsIn, TrialResult
from paredown.spec.run import CalibrationConfig, EvaluateConfig, RunConfig
from paredown.spec.strategy import Strategy
from paredown.spec.target import Target
from paredown.store.atomic import require_writable
from paredown.store.experiment import ExperimentRecord, read_experiment

Listener = Callable[[str, dict[str, Any]], None]
_FOREVER_S = 365 * 86400.0


def _ignore(event: str, fields: dict[str, Any]) -> None:
    """Listener that tells nobody."""


@dataclass(frozen=True)
class Choice:
    """One result of an experiment, with the path of its artifact."""

    result: TrialResult
    artifact: Path | None
    """Model folder for `paredown.load`; None where it was not kept."""


@dataclass(frozen=True)
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
    def choices(self) -> tuple[Choice, ...]:
        """The results on the Pareto front, by episode."""
        return tuple(self._choice(r) for r in self.findings.on_front)

    @property
    def best(self) -> Choice | None:
        """The recommended result; `findings.recommendation.reason` says why."""
        found = self.findings.result(self.findings.recommendation.episode)
        return None if found is None else self._choice(found)

    def _choice(self, result: TrialResult) -> Choice:
        kept = result.artifact
        return Choice(result, None if kept is None else self.record.folder / kept)


def optimize(
    model: str,
    *,
    experiment_name: str | None = None,
    output_dir: str | Path = DEFAULT_FOLDER,
    resume: bool = False,
    listen: Listener = _ignore,
    steering: Steering | None = None,
    **settings: Any,
) -> Front:
    """Search for the compressed versions of a model that are worth having.

    Args:
        model: local folder, hub name, or `demo`.
        experiment_name: folder name of the experiment; None makes one from the settings.
        output_dir: where experiments are kept.
        resume: continue an experiment that exists.
        listen: told of `decision`, `progress` and `result` events.
        steering: its `command("try gptq(bits=3)")` and so on, from another thread, steers the run.
        **settings: fields of `paredown.spec.run.RunConfig`, e.g. `data`, `episodes`, `limits`.

    Raises:
        ConfigError: the request is wrong; nothing was started.
    """
    record = run_experiment(
        make_config({"model": model, **settings}),
        name=experiment_name,
        output_dir=Path(output_dir),
        resume=resume,
        listen=listen,
        steering=steering,
    )
    return Front(record, find(record))


def open_front(folder: str | Path) -> Front:
    """The outcome so far of an experiment folder."""
    record = read_experiment(Path(folder))
    return Front(record, find(record))


def make_config(settings: dict[str, Any]) -> RunConfig:
    """A RunConfig, with wrong fields named in one line.

    Raises:
        ConfigError: an unknown field, or a value outside its range.
    """
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def explain(error: ValidationError) -> str:
    """What is wrong with the settings, one clause per field, nearest names included."""
    problems = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            problems.append(f"no setting {field!r}; {did_you_mean(field, RunConfig.model_fields)}")
        elif field == "llm.url":  # it may hold a key
            problems.append(f"{field}: {item['msg']}")
        else:
            problems.append(f"{field} = {item['input']!r}: {item['msg']}")
    return "; ".join(problems)


def infer_spec(model: str) -> ModelSpec:
    """What is known of a model from its config and headers; no weight is loaded.

    Raises:
        ModelError: there is no such model, or its files are damaged.
    """
    return infer.infer_spec(locate(model), name=model)


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


def compress(
    model: str,
    strategy: str | Strategy,
    output: str | Path,
    *,
    data: str = "pydoc",
    calibration: CalibrationConfig | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
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
    canonical = registry.canonical(strategy)
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} exists and is not empty; choose a new folder")
    require_writable(output.parent)
    text = check_text(data, calibration.source, data_dir)
    machine = detect()
    target = Target(device=choose_device(device, machine), runtime=runtime)
    with LocalExecutor() as executor:
        executor.start()
        folder = locate(model)
        spec = infer.infer_spec(folder, name=model)
        registry.check(canonical, spec, target)
        bench = Bench(
            base=open_base(model, folder, spec),
            text=text,
            calibration=calibration,
            evaluate=EvaluateConfig(),
            device=target.device,
            seed=seed,
            executor=executor,
            trust_remote_code=trust_remote_code,
        )
        with tempfile.TemporaryDirectory(prefix=".paredown-", dir=output.parent) as scratch:
            built = build(
                bench, canonical, Path(scratch), output, timeout_s=_FOREVER_S, watch=watch
            )
    if built.failure is not None:
        kind = ConfigError if built.config_error else MethodError
        raise kind(f"{registry.label(canonical)}: {built.failure.message}")
    return Compressed(output, canonical, built.notes, built.seconds, built.loads_in)


def evaluate(
    model: str | Path,
    *,
    base: str | None = None,
    data: str | Sequence[str] = "pydoc",
    config: EvaluateConfig | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
    items: str | Path | None = None,
    only_benchmarks: bool = False,
    trust_remote_code: bool = False,
    watch: StageProgress | None = None,
) -> TrialResult:
    """Measure a model folder: quality on held-out text, benchmarks, latency, memory, size.

    Args:
        model: artifact, local folder, hub name, or `demo`.
        base: model to compare with (KL, agreement, ratio); None takes the artifact's own base,
            or the model itself.
        data: a text, and any number of benchmarks (see `paredown.spec.benchmarks`).
        items: folder for the single answers to benchmarks, a file each.
        only_benchmarks: measure nothing else but the size.

    Raises:
        ConfigError: the request is wrong, or the model cannot be measured.
    """
    from paredown.artifact.description import read_description

    name, named = split_request([data] if isinstance(data, str) else data)
    config = config or EvaluateConfig()
    benchmarks = tuple(dict.fromkeys((*config.benchmarks, *named)))
    config = config.model_copy(update={"benchmarks": benchmarks})
    check_text_name(name)
    check_benchmarks(config, data_dir)
    if only_benchmarks and not benchmarks:
        raise ConfigError("only benchmarks are to be measured, and none is named; add -d arc_easy")
    if items is not None:
        require_writable(Path(items))
    text = check_text(name, None, data_dir)
    target = choose_device(device, detect())
    with LocalExecutor() as executor, tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        executor.start()
        folder = locate(str(model))
        described = read_description(folder)
        base_name = base or (described["base_model"]["name"] if described else str(model))
        base_folder = locate(base_name)
        spec = infer.infer_spec(base_folder, name=base_name)
        bench = Bench(
            base=open_base(base_name, base_folder, spec),
            text=text,
            calibration=CalibrationConfig(),
            evaluate=config,
            device=target,
            seed=0,
            executor=executor,
            trust_remote_code=trust_remote_code,
        )
        result = trial.measure_folder(
            bench,
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
