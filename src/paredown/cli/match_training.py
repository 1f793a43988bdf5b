"""`paredown match --train`: what training a model takes, and on how many devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from paredown.cli.match_data import csv_of, estimate_json, memory_json
from paredown.cli.match_text import money
from paredown.errors import ConfigError
from paredown.hardware.catalogue import Accelerator
from paredown.hardware.cost import Cost, cost_of
from paredown.hardware.estimate import Estimate
from paredown.hardware.memory import check_context
from paredown.hardware.training import (
    Training,
    TrainingMemory,
    tokens_per_s,
    trained_parameters,
    training_memory,
)
from paredown.spec.model import ModelSpec
from paredown.spec.sizing import MatchRequest
from paredown.spec.units import human_bytes, human_count

if TYPE_CHECKING:
    from rich.table import Table

LENGTH = 2048
"""Tokens of a sequence where nobody says."""
MOST, SHARE = 64, 0.95
"""Devices that are looked at, and the share of their memory that is used."""
BEST = 10


@dataclass(frozen=True, kw_only=True)
class TrainingFit:
    """A way of training on devices of one kind; `devices` is 0 where none of up to 64 does."""

    training: Training
    device: Accelerator
    devices: int
    memory: TrainingMemory
    tokens_per_s: Estimate | None
    cost: Cost | None
    """Per million tokens trained on."""


@dataclass(frozen=True)
class MatchedTraining:
    """All that is said of training."""

    spec: ModelSpec
    trainings: tuple[Training, ...]
    fits: tuple[TrainingFit, ...]


def match_training(
    spec: ModelSpec, devices: Sequence[Accelerator], request: MatchRequest
) -> MatchedTraining:
    """Every way of training on every device, the cheapest first.

    Raises:
        ConfigError: the model is quantized already, or reads fewer tokens.
    """
    if spec.quantization is not None:
        raise ConfigError(
            f"{spec.name} is quantized already ({spec.quantization}); training is planned for its "
            "16-bit original"
        )
    length = request.context or min(LENGTH, spec.context or LENGTH)
    check_context(spec, length)
    trainings = tuple(
        Training(
            mode=mode, batch=request.batch, length=length, rank=request.rank,
            optimizer=request.optimizer, checkpointing=request.checkpointing,
        )
        for mode in request.train or ()
    )  # fmt: skip
    fits = [
        _fit(spec, training, device, on_prem=request.on_prem)
        for training in trainings
        for device in devices
        if device.vendor in {"nvidia", "amd"}  # what transformers and peft train on
    ]
    found = sorted((f for f in fits if f.devices and _affordable(f, request.budget)), key=_rank)
    return MatchedTraining(spec, trainings, tuple(found))


def _affordable(fit: TrainingFit, budget: float | None) -> bool:
    return budget is None or (fit.cost is not None and fit.cost.hour_low <= budget)


def _fit(spec: ModelSpec, training: Training, device: Accelerator, *, on_prem: bool) -> TrainingFit:
    counts = (n for n in (1, 2, 4, 8, 16, 32, MOST))
    room = SHARE * device.usable_bytes
    memory = training_memory(spec, training)
    for count in counts:
        memory = training_memory(spec, training, count)
        if memory.total.value <= room:
            peak = None if device.fp16_tflops is None else 1e12 * device.fp16_tflops
            rate = tokens_per_s(spec, training, peak, count)
            cost = None if rate is None else cost_of(device, count, rate.value, on_prem=on_prem)
            return TrainingFit(
                training=training, device=device, devices=count, memory=memory,
                tokens_per_s=rate, cost=cost,
            )  # fmt: skip
    return TrainingFit(
        training=training, device=device, devices=0, memory=memory, tokens_per_s=None, cost=None
    )


def _rank(fit: TrainingFit) -> tuple[float, ...]:
    if fit.cost is None:
        return 1, fit.devices, 0.0
    return 0, fit.cost.million_low * fit.cost.million_high, fit.devices


def show_training(found: MatchedTraining, *, form: str, show_all: bool) -> None:
    """Print what was found."""
    if form == "json":
        from paredown.spec.serial import readable

        print(readable(training_json(found)), end="")
        return
    if form == "csv":
        print(csv_of([_row(fit) for fit in found.fits]), end="")
        return
    from rich.console import Group

    from paredown.report.console import make_console

    first = found.trainings[0]
    how = "with checkpointing" if first.checkpointing else "without checkpointing"
    title = (
        f"{found.spec.name} ({human_count(found.spec.parameters)} parameters): steps of "
        f"{first.batch} x {first.length} tokens, {first.optimizer}, {how}"
    )
    lines = [] if found.fits else [
        "No device holds it: try --train qlora, a shorter --context, a smaller --batch, "
        "--optimizer adamw8bit, or a higher --budget."
    ]  # fmt: skip
    legend = (
        "States are derived exactly from counts and spread over devices (FSDP, ZeRO-3); "
        "activations, logits and speed are estimated, with ranges in --json."
    )
    console = make_console()
    console.print(Group(title, "", _needs(found), "", _table(found, show_all=show_all), *lines))
    console.print(legend)


def _needs(found: MatchedTraining) -> Table:
    """Ways of training side by side, on one device."""
    from rich.table import Table

    table = Table(
        title="Memory, if one device holds all of it", title_justify="left", box=None,
        pad_edge=False,
    )  # fmt: skip
    for column in ("mode", "trained", "weights", "gradients", "optimizer", "~activations",
                   "~logits", "~total"):  # fmt: skip
        table.add_column(column, justify="left" if column == "mode" else "right")
    for training in found.trainings:
        memory = training_memory(found.spec, training)
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations,
                 memory.logits, memory.total)  # fmt: skip
        trained = human_count(trained_parameters(found.spec, training))
        table.add_row(training.mode, trained, *(human_bytes(part.value) for part in parts))
    return table


def _table(found: MatchedTraining, *, show_all: bool) -> Table:
    from rich.table import Table

    by_device: dict[str, dict[str, TrainingFit]] = {}
    for fit in found.fits:
        by_device.setdefault(fit.device.name, {})[fit.training.mode] = fit
    shown = list(by_device) if show_all else list(by_device)[:BEST]
    left = len(by_device) - len(shown)
    table = Table(
        title="Devices, cheapest first: number, ~tokens/s, ~USD per million tokens trained on",
        title_justify="left", caption=f"{left} more with --all" if left else None,
        caption_justify="left", box=None, pad_edge=False,
    )  # fmt: skip
    table.add_column("device", no_wrap=True)
    modes = [training.mode for training in found.trainings]
    for mode in modes:
        table.add_column(mode, justify="right", overflow="fold")
    for device in shown:
        table.add_row(device, *(_cell(by_device[device].get(mode)) for mode in modes))
    return table


def _cell(fit: TrainingFit | None) -> str:
    if fit is None:
        return "-"
    rate = "" if fit.tokens_per_s is None else f" {human_count(fit.tokens_per_s.value)}/s"
    cost = "" if fit.cost is None else f" ${money(fit.cost.million_low, fit.cost.million_high)}"
    return f"{fit.devices}x{rate}{cost}"


def training_json(found: MatchedTraining) -> dict[str, Any]:
    """Everything, each estimate with its range and source."""
    from paredown.spec.serial import SCHEMA_VERSION

    return {
        "schema_version": SCHEMA_VERSION,
        "model": found.spec.name,
        "parameters": found.spec.parameters,
        "trainings": [
            {
                **asdict(training),
                "trained_parameters": trained_parameters(found.spec, training),
                "memory_bytes_one_device": memory_json(training_memory(found.spec, training)),
            }
            for training in found.trainings
        ],
        "fits": [
            {
                "mode": fit.training.mode,
                "device": fit.device.name,
                "devices": fit.devices,
                "memory_bytes": memory_json(fit.memory),
                "tokens_per_s": estimate_json(fit.tokens_per_s),
                "cost_usd": None if fit.cost is None else asdict(fit.cost),
            }
            for fit in found.fits
        ],
    }


def _row(fit: TrainingFit) -> dict[str, Any]:
    rate, cost = fit.tokens_per_s, fit.cost
    return {
        "mode": fit.training.mode,
        "device": fit.device.name,
        "devices": fit.devices,
        "total_bytes": round(fit.memory.total.value),
        "total_bytes_low": round(fit.memory.total.low),
        "total_bytes_high": round(fit.memory.total.high),
        "tokens_per_s": "" if rate is None else f"{rate.value:.4g}",
        "usd_per_hour_low": "" if cost is None else f"{cost.hour_low:.4g}",
        "usd_per_hour_high": "" if cost is None else f"{cost.hour_high:.4g}",
        "usd_per_million_low": "" if cost is None else f"{cost.million_low:.4g}",
        "usd_per_million_high": "" if cost is None else f"{cost.million_high:.4g}",
        "price_of": "" if cost is None else cost.basis,
    }
