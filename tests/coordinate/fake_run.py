"""A run on a fake model with fake methods, its jobs answered at once: no torch, no process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors.numpy import save_file

from paredown.artifact.description import describe
from paredown.coordinate.crew import Crew
from paredown.coordinate.graph import run_graph
from paredown.coordinate.nodes import measure_baseline
from paredown.coordinate.setup import Prepared
from paredown.coordinate.state import Run
from paredown.coordinate.steering import Steering
from paredown.hardware.detect import detect
from paredown.pipeline.bench import Base, Bench
from paredown.pipeline.messages import (
    AnyDone,
    AnyJob,
    CompressDone,
    CompressJob,
    D,
    Ended,
    EvaluateDone,
    Failed,
    Job,
    ScoreDone,
    ScoreJob,
    TextSpec,
    VerifyDone,
    VerifyJob,
)
from paredown.search.policies import registry as policies
from paredown.spec.model import ModelSpec
from paredown.spec.progress import Progress
from paredown.spec.result import Failure, FailureKind, Measurement
from paredown.spec.run import RunConfig
from paredown.spec.strategy import Strategy
from paredown.spec.target import Device, Target
from paredown.spec.units import Unit
from paredown.store.experiment import Experiment
from tests.search.search_fakes import build, model_spec, smooth_truth

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16,
    "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2,
    "num_hidden_layers": 1, "vocab_size": 8, "max_position_embeddings": 64,
    "tie_word_embeddings": False, "torch_dtype": "float32",
}  # fmt: skip
_SHAPES = {
    "model.embed_tokens": (8, 16), "lm_head": (8, 16), "model.norm": (16,),
    **{f"model.layers.0.self_attn.{n}_proj": (16, 16) for n in "qkvo"},
    **{f"model.layers.0.mlp.{n}_proj": (32, 16) for n in ("gate", "up")},
    "model.layers.0.mlp.down_proj": (16, 32),
    "model.layers.0.input_layernorm": (16,), "model.layers.0.post_attention_layernorm": (16,),
}  # fmt: skip


def write_model(folder: Path) -> None:
    """A Llama of a few kilobytes that nobody loads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tensors = {f"{n}.weight": np.zeros(s, dtype=np.float32) for n, s in _SHAPES.items()}
    save_file(tensors, folder / "model.safetensors")


def failing(kind: FailureKind, message: str, *, config_error: bool = False) -> Failed:
    return Failed(failure=Failure(kind=kind, message=message), config_error=config_error)


@dataclass
class FakeExecutor:
    """Answers jobs as `smooth_truth` has it, each in a thread of its own.

    Attributes:
        gate: called with the job before it is answered: may wait, or answer otherwise.
        timeouts: that jobs were given, by kind and episode.
        waited_s: what every job says it stood in line.
        at_once: the most jobs that were under way at a time.
    """

    gate: Callable[[AnyJob, Path], Failed | None] = lambda job, folder: None
    timeouts: dict[tuple[str, str], float] = field(default_factory=dict)
    waited_s: float = 0.0
    at_once: int = 0
    closed: threading.Event = field(default_factory=threading.Event)
    _strategies: dict[Path, Strategy] = field(default_factory=dict)
    _inside: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def place(self) -> None:
        return None

    @property
    def where(self) -> dict[str, Any]:
        return {}

    def start(self) -> None:
        pass

    def require(self, model: Path, spec: ModelSpec, config: RunConfig, device: Device) -> None:
        pass

    def close(self) -> None:
        self.closed.set()

    def goes_on(self, folder: Path) -> bool:
        return False

    def submit(
        self, job: Job[D], folder: Path, *, timeout_s: float, watch: Progress | None = None
    ) -> Future[Ended[D]]:
        self.timeouts[job.kind, folder.name] = timeout_s
        future: Future[Ended[D]] = Future()

        def work() -> None:
            with self._lock:
                self._inside += 1
                self.at_once = max(self.at_once, self._inside)
            try:
                reply = self.gate(cast("AnyJob", job), folder) or self._done(job, folder)
                if self.closed.is_set():
                    raise CancelledError
                future.set_result(Ended(cast("D | Failed", reply), self.waited_s))
            except BaseException as error:  # noqa: BLE001  as the real one does
                future.set_exception(error)
            finally:
                with self._lock:
                    self._inside -= 1

        threading.Thread(target=work, daemon=True).start()
        return future

    def _done(self, job: Any, folder: Path) -> AnyDone:
        if isinstance(job, CompressJob):
            self._strategies[folder] = job.strategy
            write_model(job.out)
            describe(job.out, strategy=job.strategy, base={}, how_to_load="")
            return CompressDone(predicted_bytes=1, stored_bytes=1, reused_steps=0)
        if isinstance(job, VerifyJob):
            return VerifyDone(notes=(), kernel_error=0.0, kl_paredown=0.0)
        if isinstance(job, ScoreJob):
            scored = [
                _measured(name, 0.5, Unit.FRACTION, lower_is_better=False)
                for name in job.config.benchmarks
            ]
            return ScoreDone(measurements=tuple(scored), scores=())
        strategy = self._strategies.get(folder)
        if strategy is None:
            return EvaluateDone(measurements=BASELINE, notes=(), speed=())
        measured = smooth_truth(strategy, 1).measurements
        return EvaluateDone(measurements=measured, notes=(), speed=())


def _measured(name: str, value: float, unit: Unit, *, lower_is_better: bool = True) -> Measurement:
    return Measurement(
        name=name, value=value, unit=unit, n=1, stderr=None, lower_is_better=lower_is_better,
        source="measured", how="made up",
    )  # fmt: skip


BASELINE = (
    _measured("perplexity", 20.0, Unit.PERPLEXITY), _measured("size", 768e3, Unit.BYTES),
    _measured("decode_latency", 10.0, Unit.MS_PER_TOKEN),
    _measured("peak_memory", 868e3, Unit.BYTES),
)  # fmt: skip


def fake_run(
    folder: Path, executor: FakeExecutor, *, begin: bool = True, **settings: Any
) -> tuple[Run, list[tuple[str, dict[str, Any]]]]:
    """A run, begun or resumed in `folder`, and what its listener will be told."""
    told: list[tuple[str, dict[str, Any]]] = []
    config = RunConfig(
        **{"model": "fake", "episodes": 6, "policy": "grid", "patience": None} | settings
    )
    base = folder / "base"
    write_model(base)
    text = TextSpec(evaluation="pydoc", calibration=None, data_dir=None)
    prepared = Prepared(
        config=config,
        base=Base(name="fake", folder=base, hash="0", spec=model_spec()),
        machine=detect(),
        target=Target(device="cpu", limits=config.limits),
        text=text,
        space=build(limits=config.limits),
    )
    spec = model_spec()
    experiment = Experiment.create(folder / "e", config, spec, {}) if begin else None
    run = Run(
        prepared=prepared,
        experiment=experiment or Experiment(folder / "e"),
        bench=Bench(
            base=prepared.base, text=text, calibration=config.calibration,
            evaluate=config.evaluate, device="cpu", seed=0, executor=executor,
        ),
        policy=policies.create(config.policy, seed=0, objectives=config.objectives),
        listen=lambda event, fields: told.append((event, fields)),
        steering=Steering(),
        crew=Crew(config.workers, stop=executor.close),
    )  # fmt: skip
    run.steering.attach(prepared, run.experiment)
    return run, told


def go(run: Run) -> str:
    """The baseline, and the loop to its end; returns the reason."""
    measure_baseline(run)
    with run.crew:
        return run_graph(run)


def cast_executor(run: Run) -> FakeExecutor:
    assert isinstance(run.bench.executor, FakeExecutor)
    return run.bench.executor
