"""`paredown.deploy`: from an artifact, or a result of an experiment, to a proved package."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from paredown.artifact.decoded import base_folder
from paredown.artifact.description import read_description
from paredown.artifact.source import locate
from paredown.coordinate.setup import (
    check_enough,
    check_text,
    choose_device,
    evaluation_need,
    open_base,
)
from paredown.deploy.files import image_name
from paredown.deploy.proof import AGREES
from paredown.deploy.sizing import Wishes
from paredown.errors import ConfigError, MethodError
from paredown.evaluate.task_data import check_benchmarks
from paredown.hardware.detect import detect
from paredown.pipeline.bench import Bench, TrialFailed
from paredown.pipeline.deliver import Delivered, Order, deliver
from paredown.pipeline.executors.local import LocalExecutor
from paredown.pipeline.messages import TextSpec
from paredown.report.findings import find
from paredown.runtimes.registry import engine
from paredown.spec.benchmarks import check_text_name, split_request
from paredown.spec.explain import checked_call
from paredown.spec.infer import infer_spec
from paredown.spec.progress import StageProgress
from paredown.spec.run import CalibrationConfig, DeviceName, EvaluateConfig
from paredown.store.atomic import require_writable
from paredown.store.experiment import is_experiment, read_experiment


@checked_call
def deploy(
    artifact: str | Path,
    output: str | Path,
    *,
    runtime: str = "llama.cpp",
    base: str | None = None,
    name: str | None = None,
    data: str | Sequence[str] = "pydoc",
    config: EvaluateConfig | None = None,
    data_dir: str | Path | None = None,
    device: DeviceName = "auto",
    wishes: Wishes | None = None,
    max_kl: float = AGREES,
    trust_remote_code: bool = False,
    watch: StageProgress | None = None,
) -> Delivered:
    """Make a package of an artifact for an engine, and prove it there before it is in its place.

    Args:
        artifact: model folder, or `EXPERIMENT[#EPISODE]`; without a number the recommended one.
        output: folder of the package; a package that is there is kept beside it.
        base: to measure beside; None: the artifact's own.
        name: under which the model is served; None: that of the output.
        data: a text, and any number of benchmarks, that are measured in the engine.
        wishes: of how it is served; what is not said follows from the memory.
        max_kl: from the artifact, nats per token, that the engine's arithmetic may cause.

    Raises:
        ConfigError: the request is wrong, or the engine does not hold the artifact.
        MethodError: the package is not the artifact, or a worker came to nothing.
        ServerError: the package's server does not start, dies, or answers nonsense.
    """
    engine(runtime)  # what is missing is told before anything is loaded
    output, machine = Path(output).absolute(), detect()
    folder = artifact_folder(str(artifact))
    config, text = _what_to_measure(data, config, None if data_dir is None else Path(data_dir))
    require_writable(output.parent)
    output.parent.mkdir(parents=True, exist_ok=True)
    base_name = base or _base_name(folder)
    with LocalExecutor() as executor:
        executor.start()  # torch is imported there while the request is checked here
        given = base_folder(base_name)
        base_model = open_base(base_name, given, infer_spec(given, name=base_name))
        check_enough(text, given, [evaluation_need(config, base_model.spec)])
        bench = Bench(
            base=base_model, text=text, calibration=CalibrationConfig(), evaluate=config,
            device=choose_device(device, machine), seed=0, executor=executor, runtime=runtime,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        order = Order(
            artifact=folder, out=output, name=image_name(name or output.name), largest_kl=max_kl,
            wishes=wishes or Wishes(),
        )  # fmt: skip
        # Beside the output: the base in the engine's files may be larger than /tmp.
        with tempfile.TemporaryDirectory(prefix=".paredown-", dir=output.parent) as scratch:
            try:
                return deliver(bench, order, machine, Path(scratch), watch=watch)
            except TrialFailed as error:
                kind = ConfigError if error.config_error else MethodError
                raise kind(f"{order.artifact}: {error.failure.message}") from None


def _what_to_measure(
    data: str | Sequence[str], config: EvaluateConfig | None, data_dir: Path | None
) -> tuple[EvaluateConfig, TextSpec]:
    """The benchmarks that `data` names joined to the config, and the text.

    Raises:
        ConfigError: what is named is not there.
    """
    name, named = split_request([data] if isinstance(data, str) else list(data))
    config = (config or EvaluateConfig()).model_copy(update={"benchmarks": tuple(named)})
    check_text_name(name)
    check_benchmarks(config, data_dir)
    return config, check_text(name, None, data_dir)


def artifact_folder(name: str) -> Path:
    """The model folder that `EXPERIMENT`, `EXPERIMENT#EPISODE` or the name of a model means.

    Raises:
        ConfigError: no such episode, or its artifact was not kept; what would do.
    """
    place, _, number = name.rpartition("#")
    folder = Path(place or name).expanduser()
    if not is_experiment(folder):
        return locate(name)
    if place and not number.isdigit():
        raise ConfigError(f"{name}: behind # goes the number of an episode, as in {place}#3")
    record = read_experiment(folder)
    episode = int(number) if place else find(record).recommendation.episode
    result = next((r for r in record.results if r.episode == episode), None)
    kept = [f"#{r.episode}" for r in record.results if r.artifact is not None]
    if result is None or result.artifact is None:
        which = "recommends nothing" if episode is None else f"keeps no artifact of #{episode}"
        there = f"it has {', '.join(kept)}" if kept else "it keeps none; run it again, or compress"
        raise ConfigError(f"{folder} {which}; {there}")
    return folder / result.artifact


def _base_name(folder: Path) -> str:
    described = read_description(folder)
    return str(folder) if described is None else str(described["base_model"]["name"])
