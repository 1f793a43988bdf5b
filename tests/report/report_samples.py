"""Made-up results, built through the real record classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from paredown.judge.quality import with_quality
from paredown.report.findings import Judged, find
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.result import Failure, FailureKind, Measurement, TrialResult, flat_fields
from paredown.spec.run import RunConfig
from paredown.spec.scores import Comparison, TaskScore
from paredown.spec.strategy import parse_strategy
from paredown.spec.units import Unit
from paredown.store.experiment import Experiment, ExperimentRecord, read_experiment

BASE = {"perplexity": 20.0, "size": 270e6, "decode_latency": 30.0, "peak_memory": 900e6}
_UNITS = {
    "perplexity": Unit.PERPLEXITY,
    "kl": Unit.NATS_PER_TOKEN,
    "accuracy": Unit.FRACTION,
    "size": Unit.BYTES,
    "decode_latency": Unit.MS_PER_TOKEN,
    "peak_memory": Unit.BYTES,
    "speedup": Unit.RATIO,
    "perplexity_ratio": Unit.RATIO,
    "top1_agreement": Unit.FRACTION,
    "compression_ratio": Unit.RATIO,
    "energy": Unit.JOULES_PER_TOKEN,
    "coverage": Unit.FRACTION,
}


def measurement(name: str, value: float, stderr: float | None = None) -> Measurement:
    source: Literal["measured", "derived"] = (
        "derived" if name in {"speedup", "compression_ratio"} else "measured"
    )
    return Measurement(
        name=name,
        value=value,
        unit=_UNITS[name],
        n=1 if stderr is None else 16,
        stderr=stderr,
        lower_is_better=name not in {"accuracy", "speedup", "compression_ratio", "coverage"},
        source=source,
        how=f"protocol of {name}",
    )


def ok(episode: int, text: str | None, values: dict[str, float], **changes: Any) -> TrialResult:
    """A finished result; perplexity and latency get a standard error of 1 %."""
    noisy = {"perplexity", "decode_latency"}
    measured = tuple(measurement(k, v, v * 0.01 if k in noisy else None) for k, v in values.items())
    strategy = None if text is None else parse_strategy(text)
    kind = "baseline" if strategy is None else "quantization"
    if strategy is not None and len(strategy.steps) > 1:
        kind = "pipeline"
    fields: dict[str, Any] = {
        "episode": episode,
        "strategy": strategy,
        "label": text or "uncompressed",
        "kind": kind,
        "status": "ok",
        "measurements": measured,
        "compress_s": 4.0,
        "evaluate_s": 5.0,
        "wall_s": 10.0,
        **flat_fields(measured),
    }
    return TrialResult(**(fields | changes))


def point(
    episode: int, text: str, perplexity: float, size: float, latency: float, memory: float
) -> TrialResult:
    """A finished trial, from its share of the baseline's numbers."""
    values = {
        "perplexity": BASE["perplexity"] * perplexity,
        "kl": 0.01 * perplexity,
        "size": BASE["size"] * size,
        "decode_latency": BASE["decode_latency"] * latency,
        "peak_memory": BASE["peak_memory"] * memory,
        "speedup": 1 / latency,
        "compression_ratio": 1 / size,
    }
    return ok(episode, text, values)


def scored(
    result: TrialResult,
    value: float,
    *,
    base: float = 0.6,
    half: float = 0.05,
    name: str = "gsm8k",
    n: int = 100,
    quality: str = "auto",
) -> TrialResult:
    """The result with one more benchmark, `half` being that of the interval of the change."""
    is_base = result.strategy is None
    change = value - base
    versus = Comparison(
        n=n, base_value=base, difference=change, low=change - half, high=change + half, lost=None,
        gained=None, changed=None, p_value=None, margin=0.02, equivalent=False, verdict="in words",
    )  # fmt: skip
    score = TaskScore(
        name=name, metric="exact_match", value=value, stderr=0.03, low=value - 0.06,
        high=value + 0.06, n=n, n_available=1000, n_truncated=0, few_shot=0, chance=None,
        rows="made up", how="one question at a time", items=f"{name}.jsonl",
        versus_base=None if is_base else versus,
    )  # fmt: skip
    return with_quality(result.model_copy(update={"scores": (*result.scores, score)}), quality)


def failed(
    episode: int, text: str = "rtn(bits=2)", message: str = "used more than 2.0 GB"
) -> TrialResult:
    return TrialResult(
        episode=episode,
        strategy=parse_strategy(text),
        label=text,
        kind="quantization",
        status="failed",
        failure=Failure(kind=FailureKind.OUT_OF_MEMORY, message=message, stage="compress"),
        wall_s=3.0,
    )


def baseline() -> TrialResult:
    return ok(0, None, BASE)


def several() -> tuple[TrialResult, ...]:
    """A front of four (episodes 0, 1, 2, 3), one dominated result and one failure."""
    return (
        baseline(),
        point(1, "int8", 1.005, 0.55, 0.90, 0.70),
        point(2, "gptq(bits=4)", 1.04, 0.35, 0.60, 0.55),
        point(3, "l2_structured(ratio=0.2) > gptq(bits=4)", 1.60, 0.28, 0.50, 0.50),
        point(4, "rtn(bits=4)", 1.20, 0.36, 0.62, 0.56),
        failed(5),
    )


def spec() -> ModelSpec:
    return ModelSpec(
        name="tiny",
        path=None,
        architecture="LlamaForCausalLM",
        model_type="llama",
        family="llama",
        parameters=135_000_000,
        active_parameters=135_000_000,
        layers=2,
        hidden_size=64,
        intermediate_size=128,
        heads=2,
        kv_heads=2,
        head_dim=32,
        vocabulary=100,
        context=128,
        dtype="BF16",
        tied_embeddings=True,
        tensors=(TensorInfo(name="w", dtype="BF16", shape=(100, 64)),),
    )


def record(
    folder: Path,
    results: tuple[TrialResult, ...],
    *,
    events: tuple[dict[str, Any], ...] = (),
    **config: Any,
) -> ExperimentRecord:
    """An experiment folder with these results, read back from disk."""
    run = {
        "versions": {"paredown": "0.1.0", "torch": "2.10"},
        "hardware": {"cpu": "made up", "cores": 2},
    }
    experiment = Experiment.create(folder, RunConfig(**({"model": "demo"} | config)), spec(), run)
    for result in results:
        experiment.begin(result.episode, result.strategy)
        experiment.finish(result)
    for event in events:
        experiment.events.add(**event)
    return read_experiment(folder)


def findings(folder: Path, results: tuple[TrialResult, ...], **config: Any) -> Judged:
    return find(record(folder, results, **config))
