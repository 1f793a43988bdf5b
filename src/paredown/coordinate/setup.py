"""Everything that is checked and known before the first weight is loaded."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paredown.artifact.decoded import base_folder, decoded_note
from paredown.artifact.source import has_chat_template
from paredown.errors import ConfigError, ExperimentError, ModelError
from paredown.evaluate.carbon import check_country
from paredown.evaluate.task_data import check_benchmarks
from paredown.hardware.build import torch_has_cuda
from paredown.hardware.counters import open_rapl
from paredown.hardware.detect import Machine, detect
from paredown.methods import registry
from paredown.pipeline.bench import Base
from paredown.pipeline.disk import cache_note
from paredown.pipeline.executors.base import Place
from paredown.pipeline.messages import TextSpec
from paredown.runtimes.base import require_read
from paredown.runtimes.registry import engine
from paredown.search.enumerated import Enumerated
from paredown.search.space import Space
from paredown.spec.benchmarks import check_text_name
from paredown.spec.headers import weights_files
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.progress import Progress, unheard
from paredown.spec.reading import read_object
from paredown.spec.run import CalibrationConfig, MeasureConfig, RunConfig
from paredown.spec.scan import scan_weights
from paredown.spec.serial import content_hash, plain
from paredown.spec.target import Device, Target
from paredown.store.atomic import require_writable, write_json
from paredown.store.cache import Cache
from paredown.store.content import file_stamp
from paredown.store.home import home
from paredown.text.amount import Need, check_amount, counter
from paredown.text.texts import check_calibration, open_source, parts

EXTENDABLE = (
    "episodes",
    "workers",
    "executor",
    "address",
    "budget_h",
    "trial_timeout_h",
    "worker_memory_gb",
    "patience",
    "country",
    "final_limit",
    "also_in",
    "further_rounds",
    "lang",
)
"""Settings that may differ when an experiment is resumed: they change no measurement."""

EMPTY_PROCESS_GB = {"torch": 0.2, "transformers": 0.3, "llama.cpp": 0.03}
"""Memory of a process that has imported the engine: 0.23 and 0.38 GB with torch 2.13, 0.04 with
llama.cpp, rounded down so that nothing is refused that some build might do."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A request that can be carried out."""

    config: RunConfig
    base: Base
    machine: Machine
    target: Target
    text: TextSpec
    space: Space
    notes: tuple[str, ...] = ()
    """What the user should know before anything is measured."""


def prepare(
    config: RunConfig, progress: Progress = unheard, place: Place | None = None
) -> Prepared:
    """Check the whole request: model, text, device, methods, limits.

    Args:
        config: the request.
        progress: told what takes long: a model may have to be fetched, and its weights be read.
        place: where time is measured; None: here.

    Raises:
        ConfigError: whatever is wrong, before anything expensive starts.
    """
    # Both would be the user's mistake here, and a method's in a worker.
    require_writable(Cache.default().folder)
    check_country(config.country)
    check_text_name(config.data)
    check_benchmarks(config.evaluate, config.data_dir)
    check_final(config)
    check_memory_limit(config)
    progress(0.0, "reading the text")
    text = check_text(config.data, config.calibration.source, config.data_dir)
    machine = detect() if place is None else place.machine
    device = choose_device(config.device, machine, place)
    for name in config.methods or ():
        registry.load(name)  # a misspelt name is told before a model is fetched
    runs_in = engine(config.runtime)  # everything is measured in it, so it must be here
    others = [engine(name) for name in config.also_in]
    progress(0.0, f"finding the model {config.model}")
    folder = base_folder(config.model, progress)
    spec = infer_spec(folder, name=config.model)
    if config.evaluate.chat_template and not has_chat_template(folder):
        raise ConfigError(
            f"evaluate.chat_template: the tokenizer of {config.model} has none; leave it out"
        )
    for each in (runs_in, *others):  # the base is measured in all of them as well
        require_read(each, spec, device, what=config.model)
    check_energy_limit(config, device, place)
    target = Target(device=device, runtime=config.runtime, limits=config.limits)
    progress(0.0, "planning what can run here")
    space = Enumerated.build(spec, target, methods=config.methods, max_steps=config.max_steps)
    needs = [evaluation_need(config.evaluate, spec)]
    firsts = tuple(space.first_of_methods().values())
    if any(registry.reads_data(strategy) for strategy in firsts):
        needs.append(calibration_need(config.calibration))
    notes = check_enough(text, folder, needs)
    base = open_base(config.model, folder, spec, progress)  # last: it reads every weight
    return Prepared(
        config=config, base=base, machine=machine, target=target, text=text, space=space,
        notes=tuple(filter(None, (*notes, decoded_note(folder), cache_note(firsts, spec)))),
    )  # fmt: skip


def check_memory_limit(config: RunConfig) -> None:
    """Refuse a limit on memory that a process breaks which holds no model yet.

    Raises:
        ConfigError: with what it takes.
    """
    asked = config.limits.max_memory_gb
    needed = EMPTY_PROCESS_GB.get(config.runtime)
    if asked is not None and needed is not None and asked < needed:
        raise ConfigError(
            f"max_memory_gb {asked:g}: a process of {config.runtime} takes about {needed:g} GB of "
            "memory before any model is in it; give more"
        )


def check_energy_limit(config: RunConfig, device: Device, place: Place | None = None) -> None:
    """Refuse a limit on energy where no counter can be read: nothing would ever be shown to meet
    it, for an estimate is none.

    Raises:
        ConfigError: with what is missing.
    """
    if config.limits.max_energy is None:
        return
    if config.evaluate.energy_s == 0:
        raise ConfigError("max_energy: evaluate.energy_s is 0, so no energy is measured; raise it")
    counter: object = open_rapl() if place is None else place.no_energy or None
    if device == "cuda":  # which counter is its own, the worker finds out with torch
        found = importlib.util.find_spec("pynvml") is not None
        counter = found or "a GPU's counter needs nvidia-ml-py: pip install 'paredown[gpu]'"
    if isinstance(counter, str):
        raise ConfigError(f"max_energy: no energy can be measured here ({counter}); leave it out")


def check_final(config: RunConfig) -> None:
    """See that the larger set is one.

    Raises:
        ConfigError: there are no benchmarks to ask it of, or it is smaller than that of the search.
    """
    final, limit = config.final_limit, config.evaluate.limit
    if final is None:
        return
    if not config.evaluate.benchmarks:
        raise ConfigError(f"final_limit {final} is for benchmarks, and none is named; add -d gsm8k")
    if final != 0 and (limit == 0 or final < limit):
        asked = "all items" if limit == 0 else f"{limit} items"
        raise ConfigError(
            f"final_limit {final}: the search asks {asked} already; give more, or 0 for all"
        )


def open_base(name: str, folder: Path, spec: ModelSpec, progress: Progress = unheard) -> Base:
    """The base model, its weights read once for hash and non-finite values.

    Raises:
        ModelError: it is quantized already, or has NaN weights.
    """
    if spec.quantization is not None:
        raise ModelError(
            f"{name} is quantized already ({spec.quantization}); start from its 16-bit original"
        )
    return Base(name=name, folder=folder, hash=_weights_hash(folder, progress), spec=spec)


def check_text(data: str, calibration: str | None, data_dir: Path | None) -> TextSpec:
    """The text request, its sources opened once to see that they are there.

    Raises:
        DataError: an unknown source, or a test split for calibration.
    """
    if calibration is not None:
        check_calibration(calibration, data)
        open_source(calibration, data_dir=data_dir)
    source = open_source(data, data_dir=data_dir)
    if not source.generated:
        source.documents("evaluation")
    return TextSpec(evaluation=data, calibration=calibration, data_dir=data_dir)


def evaluation_need(config: MeasureConfig, spec: ModelSpec) -> Need:
    """What a measurement reads of the held-out text; windows are no longer than the context."""
    length = min(config.window, spec.context or config.window)
    return Need(part="evaluation", amount=config.amount.windows(length), length=length)


def calibration_need(config: CalibrationConfig) -> Need:
    """What methods that need data read of the calibration text."""
    return Need(part="calibration", amount=config.amount, length=config.length)


def check_enough(text: TextSpec, folder: Path, needs: Sequence[Need]) -> tuple[str, ...]:
    """See that the text is long enough for what will be read of it.

    Args:
        folder: of the model, whose tokenizer counts.

    Returns:
        Notes: what was dropped, and where all of a text is taken though that is less than usual.

    Raises:
        DataError: too short.
    """
    evaluation = open_source(text.evaluation, data_dir=text.data_dir)
    named = text.calibration
    calibration = None if named is None else open_source(named, data_dir=text.data_dir)
    count = counter(folder)
    if count is None or evaluation.generated:  # the worker counts; a model writes what is needed
        return ()
    if calibration is not None and calibration.generated:
        found = parts(evaluation, None)
        needs = [need for need in needs if need.part == "evaluation"]
    else:
        found = parts(evaluation, calibration)
    notes = []
    if found.dropped and any(need.part == "calibration" for need in needs):
        notes.append(
            f"{found.dropped} passages stand in the evaluation text too, and are left out of "
            "calibration"
        )
    for need in needs:
        source = evaluation if need.part == "evaluation" else calibration or evaluation
        notes.append(check_amount(source, found.of(need.part), need, count))
    return tuple(note for note in notes if note)


def choose_device(wanted: str, machine: Machine, place: Place | None = None) -> Device:
    """`auto` takes a GPU where both the machine and torch have one.

    Args:
        place: that the machine is of, where it is not this one.

    Raises:
        ConfigError: `cuda` was asked for and is not there.
    """
    usable = bool(machine.gpus) and (torch_has_cuda() if place is None else place.torch_has_cuda)
    if wanted == "cuda" and not usable:
        reason = "this torch is built without CUDA" if machine.gpus else "no GPU was found"
        raise ConfigError(f"device 'cuda': {reason}; use --device cpu")
    return "cuda" if wanted == "cuda" or (wanted == "auto" and usable) else "cpu"


def _weights_hash(folder: Path, progress: Progress) -> str:
    """SHA-256 over the weights, remembered by what the file system says of the files."""
    # Names count, because the hash is over them too; no folders, because they tell nothing.
    stamp = [(file.name, file_stamp(file)) for file in weights_files(folder)]
    memo = home() / "cache" / "scans" / f"{content_hash(stamp, length=32)}.json"
    if (found := _remembered(memo)) is not None:
        return found
    scan = scan_weights(folder, lambda done, file: progress(done, f"checking the weights, {file}"))
    if scan.nonfinite:
        name, count = next(iter(scan.nonfinite.items()))
        more = f" and {len(scan.nonfinite) - 1} more" if len(scan.nonfinite) > 1 else ""
        raise ModelError(
            f"{folder}: {name}{more} holds {count} NaN or infinite weights; the file is damaged "
            "or the training diverged: get the weights again"
        )
    write_json(memo, {"sha256": scan.sha256})
    return scan.sha256


def _remembered(memo: Path) -> str | None:
    """A hash of weights that was kept; None where there is none, or the file is damaged."""
    try:
        found = read_object(memo).get("sha256")
    except ConfigError:
        return None
    return found if isinstance(found, str) else None


def default_name(config: RunConfig) -> str:
    """Experiment name from model, text, and a hash of all other settings that matter."""
    settings = {k: v for k, v in plain(config).items() if k not in EXTENDABLE}
    measured = (*config.evaluate.benchmarks, config.data)[0]
    parts = [Path(config.model).name, Path(measured).stem, content_hash(settings, length=6)]
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-.")[:60] for part in parts)


def folder_name(name: str) -> str:
    """The name of an experiment, as the user gave it: the name of one folder, and no path.

    Raises:
        ConfigError: it would be written elsewhere, be hidden, or be read as an option.
    """
    if not re.fullmatch(r"[^\W_][\w.+=@ -]*", name) or name != name.strip() or len(name) > 100:
        raise ConfigError(
            f"experiment name {name[:80]!r}: use at most 100 letters, digits, '.', '_' and '-', "
            "a letter or digit first; the folder that holds it is --output-dir"
        )
    return name


def check_same(folder: Path, old: RunConfig, new: RunConfig) -> None:
    """Refuse to mix two requests in one experiment.

    Raises:
        ExperimentError: naming the settings that differ, old and new.
    """
    before, after = plain(old), plain(new)
    differ = [k for k in after if before.get(k) != after[k] and k not in EXTENDABLE]
    if differ:
        shown = "; ".join(f"{k}: {before.get(k)!r} there, {after[k]!r} now" for k in differ)
        raise ExperimentError(
            f"experiment {folder.name!r} exists with other settings ({shown}); "
            "choose another --experiment-name"
        )
