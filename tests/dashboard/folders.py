"""Experiment folders of any size, made from the records of a real run, every number varied."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from paredown.report.write import write_progress_files
from paredown.spec.plan import DESCRIPTION, PlanRecord, UnitPlan
from paredown.spec.result import Failure, FailureKind, TrialResult, flat_fields
from paredown.spec.run import RunConfig
from paredown.spec.strategy import parse_strategy
from paredown.store.experiment import (
    Decided,
    Experiment,
    ExperimentRecord,
    lock,
    read_experiment,
)
from paredown.store.state import Moment, write_moment
from tests.report.report_samples import spec

_RECORDS = Path(__file__).with_name("records")
_STRATEGIES = (
    "gptq(bits=4, group_size=64)", "gptq(bits=3)", "rtn(bits=4)", "awq(bits=4)",
    "mixed(bpw=4.25)", "l2_structured(ratio=0.2) > gptq(bits=4)",
)  # fmt: skip


def real(name: str) -> TrialResult:
    """`base` or `trial`, as a real run has recorded it."""
    return TrialResult.model_validate_json((_RECORDS / f"{name}.json").read_text("utf-8"))


def varied(result: TrialResult, episode: int, random: Random) -> TrialResult:
    """The same strategy family with other numbers; about one in twenty fails."""
    text = _STRATEGIES[episode % len(_STRATEGIES)]
    strategy = parse_strategy(text)
    about = {
        "episode": episode, "strategy": strategy, "label": text, "artifact": None,
        "kind": "pipeline" if len(strategy.steps) > 1 else "quantization",
    }  # fmt: skip
    if random.random() < 0.05:
        failure = Failure(kind=FailureKind.OUT_OF_MEMORY, message="used too much", stage="compress")
        nothing = dict.fromkeys(flat_fields(()))
        failed = {"status": "failed", "failure": failure, "measurements": (), "artifact": None}
        return TrialResult.model_validate(result.model_dump() | about | failed | nothing)
    small = random.uniform(0.4, 1.6)
    factors = {"perplexity": small**-0.3, "perplexity_ratio": small**-0.3, "kl": small**-1.2,
               "size": small, "compression_ratio": 1 / small, "decode_latency": small**0.4,
               "speedup": small**-0.4, "peak_memory": small**0.5}  # fmt: skip
    measured = tuple(
        m.model_copy(update={"value": m.value * factors[m.name] * random.uniform(0.97, 1.03)})
        if m.name in factors
        else m
        for m in result.measurements
    )
    return result.model_copy(update={**about, "measurements": measured, **flat_fields(measured)})


def many(folder: Path, trials: int, *, seed: int = 0, **config: Any) -> ExperimentRecord:
    """An experiment of a base and many trials, with the files that its run would have written."""
    random, trial = Random(seed), real("trial")
    results = [real("base"), *(varied(trial, n, random) for n in range(1, trials + 1))]
    request = RunConfig(**({"model": "demo", "episodes": max(trials, 1)} | config))
    experiment = Experiment.create(folder, request, spec(), {})
    experiment.events.add("started", episodes=trials, strategies=40, methods=("gptq", "rtn", "awq"))
    for result in results:
        # Not through `begin` and `finish`: ten thousand of them would be synced to the disk.
        place = experiment.episode(result.episode)
        place.mkdir()
        (place / "results.json").write_text(result.model_dump_json(), encoding="utf-8")
    # Not read back: ten thousand records take half a minute.
    record = ExperimentRecord(
        folder=folder, config=request, run={}, spec=spec(), results=tuple(results), events=(),
        final=None,
    )  # fmt: skip
    write_progress_files(record)
    return record


def with_plan(folder: Path, episode: int = 5, blocks: int = 12) -> None:
    """Gives an episode of an experiment an artifact made from a plan, and a reason and a log."""
    experiment = Experiment(folder)
    kinds = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
    units = tuple(
        UnitPlan(
            layers=(f"model.layers.{block}.{kind}",),
            option=("4a64", "3a64", "8s", "2a64")[(block * 3 + i) % 4], nbytes=1000, kl=0.001,
        )
        for block in range(blocks)
        for i, kind in enumerate(kinds)
    )  # fmt: skip
    plan = PlanRecord(parameters=135_000_000, nbytes=70_000_000, kl=0.1, units=units)
    artifact = experiment.episode(episode) / "artifact"
    artifact.mkdir(exist_ok=True)
    about = {"schema_version": 1, "strategy": {}, "plan": plan.model_dump(mode="json")}
    (artifact / DESCRIPTION).write_text(json.dumps(about))
    old = next(r for r in experiment.results() if r.episode == episode)
    decided = Decided(policy="grid", reason="the next of the grid", expected={"size": 1e8})
    experiment.begin(episode, old.strategy, decided=decided)
    experiment.finish(old.model_copy(update={"artifact": f"episode_{episode:03d}/artifact"}))
    (experiment.episode(episode) / "worker.log").write_text("block 1 of 12\nblock 2 of 12\n")
    write_progress_files(read_experiment(folder))


def failed_only(folder: Path) -> ExperimentRecord:
    """An experiment in which nothing came of anything but the base."""
    failure = Failure(kind=FailureKind.TIMEOUT, message="took more than 60 s", stage="evaluate")
    experiment = Experiment.create(folder, RunConfig(model="demo", episodes=3), spec(), {})
    experiment.begin(0, None)
    experiment.finish(real("base"))
    for number, text in enumerate(_STRATEGIES[:3], start=1):
        strategy = parse_strategy(text)
        experiment.begin(number, strategy)
        experiment.finish(
            TrialResult(
                episode=number, strategy=strategy, label=text, kind="quantization",
                status="failed", failure=failure, wall_s=60.0,
            )
        )  # fmt: skip
    write_progress_files(read_experiment(folder))
    return read_experiment(folder)


@contextmanager
def at_work(folder: Path, **moment: Any) -> Iterator[None]:
    """As if a run were at work in the folder: it holds the lock, and has told how far it is."""
    import platform

    handle = lock(folder)
    about: dict[str, Any] = {
        "time": time.time(), "host": platform.node(), "episode": 3, "stage": "compress",
        "share": 0.4, "message": "block 5 of 30", "left_s": 754.0,
    }  # fmt: skip
    write_moment(folder, Moment(**(about | moment)))
    yield
    os.close(handle)
