"""Predicted against measured, over experiments that have run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import final

from paredown.coordinate.prediction import Ground, Predicted, predict
from paredown.errors import ConfigError, ExperimentError
from paredown.hardware.detect import Machine
from paredown.methods import registry
from paredown.runtimes.calibration import Calibration, kept
from paredown.spec.result import TrialResult
from paredown.spec.strategy import Strategy
from paredown.spec.target import Target
from paredown.store.experiment import ExperimentRecord, is_experiment, read_experiment

QUANTITIES = ("size", "peak_memory", "decode_latency", "speedup", "perplexity_ratio")
"""Measurements that are predicted as well."""


@final
@dataclass(frozen=True, kw_only=True)
class Pair:
    """One number, predicted and measured.

    Attributes:
        experiment, label: of which trial.
        name: of the measurement.
        low, high: the predicted interval.
    """

    experiment: str
    label: str
    name: str
    predicted: float
    low: float
    high: float
    measured: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured

    @property
    def covered(self) -> bool:
        """Whether the interval holds what was measured; of an exact one, to a byte in a million."""
        slack = 1e-6 * abs(self.measured)
        return self.low - slack <= self.measured <= self.high + slack


@final
@dataclass(frozen=True, kw_only=True)
class Summary:
    """All pairs of one quantity.

    Attributes:
        name: of the measurement.
        n: pairs.
        median_ratio: predicted over measured.
        worst_factor: the largest of ratio and its inverse.
        covered: share of the pairs whose interval holds what was measured.
    """

    name: str
    n: int
    median_ratio: float
    worst_factor: float
    covered: float


def experiments_in(folder: Path) -> list[Path]:
    """The experiment that a folder is, or those that lie in it.

    Raises:
        ExperimentError: there is none.
    """
    if is_experiment(folder):
        return [folder]
    found = sorted(f for f in folder.glob("*") if is_experiment(f)) if folder.is_dir() else []
    if not found:
        raise ExperimentError(
            f"{folder}: no experiment lies here; give one, or the folder that holds them (the "
            "--output-dir of paredown run)"
        )
    return found


def pairs_of(
    record: ExperimentRecord, machine: Machine, calibration: Calibration | None
) -> list[Pair]:
    """Every number of an experiment that is predicted too, the base's among them.

    Quality is predicted from what is shipped, not from skills: those may have been learned from
    this very experiment. Speed is compared where it was measured on this machine.
    """
    base = record.baseline
    here = calibration if base is not None and base.machine == machine.id else None
    measure = record.config.evaluate
    ground = Ground(
        spec=record.spec,
        target=Target(device=record.run.get("device", "cpu"), runtime=record.config.runtime),
        calibration=here,
        tokens=(measure.prompt_tokens, measure.decode_tokens),
    )
    done = [r for r in record.trials if r.status == "ok" and r.strategy is not None]
    strategies = [_canonical(r.strategy) for r in done if r.strategy is not None]
    known = [s for s in strategies if s is not None]
    if not known:
        return []
    found = predict(known, ground)
    by_hash = {row.result.strategy.hash: row for row in found.rows if row.result.strategy}
    pairs: list[Pair] = []
    if base is not None and base.status == "ok":
        pairs += _pairs(record.name, "base", found.base, base)
    for result, strategy in zip(done, strategies, strict=True):
        row = None if strategy is None else by_hash.get(strategy.hash)
        if row is not None:
            pairs += _pairs(record.name, result.label, row, result)
    return pairs


def _canonical(strategy: Strategy) -> Strategy | None:
    """None where this version knows a method or a parameter no more."""
    try:
        return registry.canonical(strategy)
    except ConfigError:
        return None


def _pairs(experiment: str, label: str, row: Predicted, result: TrialResult) -> Iterable[Pair]:
    for name in QUANTITIES:
        said = row.result.get(name)
        seen = result.get(name)
        if said is None or seen is None or seen.value <= 0 or said.value <= 0:
            continue
        if label == "base" and name in {"speedup", "perplexity_ratio"}:
            continue  # one by definition
        low = said.value if said.low is None else said.low
        high = said.value if said.high is None else said.high
        yield Pair(
            experiment=experiment, label=label, name=name, predicted=said.value, low=low,
            high=high, measured=seen.value,
        )  # fmt: skip


def summaries(pairs: Sequence[Pair]) -> list[Summary]:
    """One per quantity that there are pairs of."""
    found = []
    for name in QUANTITIES:
        mine = [pair for pair in pairs if pair.name == name]
        if mine:
            worst = max(abs(math.log(pair.ratio)) for pair in mine)
            found.append(
                Summary(
                    name=name, n=len(mine), median_ratio=median(p.ratio for p in mine),
                    worst_factor=math.exp(worst),
                    covered=sum(p.covered for p in mine) / len(mine),
                )
            )  # fmt: skip
    return found


def read_history(folder: Path, machine: Machine) -> tuple[list[Pair], dict[str, str]]:
    """All pairs, and why experiments were left out, by name; speed where an experiment's engine is
    calibrated on this machine.

    Raises:
        ExperimentError: there is no experiment.
    """
    pairs: list[Pair] = []
    left: dict[str, str] = {}
    for path in experiments_in(folder):
        try:
            record = read_experiment(path)
            pairs += pairs_of(record, machine, kept(machine, record.config.runtime))
        except ConfigError as error:  # a damaged one does not hide the others
            left[path.name] = str(error)
    return pairs, left
