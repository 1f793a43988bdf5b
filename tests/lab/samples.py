"""Checkpoints made by hand, as a lab would leave them."""

from __future__ import annotations

from typing import Any

from paredown.deploy.facts import Fact
from paredown.lab.advice import Case
from paredown.lab.checkpoints import (
    Analysis,
    Candidate,
    Deployment,
    Design,
    Exchange,
    Expectation,
    Here,
    Implementation,
    Limit,
    Model,
    Place,
    Served,
)
from paredown.pipeline.messages import Answered
from paredown.spec.lab import LabConfig
from paredown.spec.result import Measurement, TrialResult
from paredown.spec.units import Unit

AT = "2026-05-01T00:00:00Z"
GOOD = Answered(text="Paris is the capital of France.", tokens=7, seconds=0.5)
BLANK = Answered(text="  ", tokens=0, seconds=0.1)
LOOP = Answered(text="no no no no no no no no no no no no no no", tokens=14, seconds=0.5)


def measured(name: str, value: float, unit: Unit = Unit.RATIO) -> Measurement:
    return Measurement(
        name=name, value=value, unit=unit, n=1, stderr=None, lower_is_better=True,
        source="measured", how="by hand",
    )  # fmt: skip


def result(episode: int, **more: Any) -> TrialResult:
    size = 200e6 if episode == 0 else 60e6
    return TrialResult(
        episode=episode, strategy=None, status="ok",
        label="baseline" if episode == 0 else f"gptq(bits={episode})",
        kind="baseline" if episode == 0 else "quantization",
        measurements=(
            measured("size", size, Unit.BYTES), measured("perplexity", 20.0 + episode),
            measured("peak_memory", 2 * size, Unit.BYTES),
        ), **more,
    )  # fmt: skip


def limit(state: str, field: str = "max_memory_gb") -> Limit:
    return Limit(
        field=field, bound=2.0, unit="GB", state=state,
        seen=Expectation(value=1.0, low=0.9, high=1.1),
    )  # fmt: skip


def analysis() -> Analysis:
    return Analysis(
        made_at=AT, made_from={}, cpu="A CPU", cores=2, memory_bytes=10**10, gpus=(),
        work="1 x 4096",
        model=Model(
            name="m", sha256="ab" * 32, architecture="LlamaForCausalLM", family="llama",
            parameters=10**8, active_parameters=5 * 10**7, layers=4, hidden_size=64, heads=4,
            kv_heads=None, vocabulary=100, context=4096, dtype="BF16", weight_bytes=2 * 10**8,
            cache_bytes_per_token=None, unknown=("kv_heads",),
        ),
        places=(
            Place(
                version="bf16", nbytes=2 * 10**8, devices="1x L4", runtime="vllm",
                memory_bytes=10**9, limit_bytes=2 * 10**10, ttft_s=None, tpot_s=0.01,
                usd_per_hour=(0.4, 0.8), price_date="2026-03", is_target=True,
            ),
        ),
        here=(Here(version="bf16", nbytes=1, memory_bytes=None, fits=None, tpot_s=None),),
        notes=(), baseline=result(0),
    )  # fmt: skip


def design() -> Design:
    return Design(
        made_at=AT, made_from={},
        candidates=(
            Candidate(
                strategy="gptq(bits=4)", size_bytes=10**7, ratio=3.3, memory_bytes=None,
                speedup=None, perplexity_ratio=Expectation(value=1.1, low=1.0, high=1.2),
                known_from="the same family", limits=(limit("met"),),
            ),
        ),
        refused={"fp8": "no such kernel"}, favourite="gptq(bits=4)", chosen=("gptq(bits=4)",),
    )  # fmt: skip


def made(**changes: Any) -> Implementation:
    fields: dict[str, Any] = {
        "made_at": AT, "made_from": {}, "experiment": "experiments/x", "baseline": result(0),
        "results": (result(4, artifact="episode_004/artifact"),), "episode": 4, "asked": 4,
        "reason": "the smallest", "limits": (limit("met"),), "is_chat": True,
        "exchanges": (Exchange(message="Hello | `you` <b>", base=GOOD, artifact=GOOD),) * 3,
    }  # fmt: skip
    return Implementation(**fields | changes)


def deployment(**changes: Any) -> Deployment:
    fields: dict[str, Any] = {
        "made_at": AT, "made_from": {}, "runtime": "llama.cpp", "package": "package",
        "nbytes": 10**7, "version": "cd" * 32,
        "exactness": (measured("kl", 0.0001, Unit.NATS_PER_TOKEN),), "pairs": (),
        "served": Served(
            context=4096, slots=4, threads=1, memory_bytes=2 * 10**9, peak_bytes=10**9
        ),
        "facts": (Fact(name="health", status="passed", seen="/health: 200"),),
    }  # fmt: skip
    return Deployment(**fields | changes)


def case(
    config: dict[str, Any] | None = None, deployed: Deployment | None = None, **changes: Any
) -> Case:
    return Case(
        config=LabConfig.model_validate({"model": "m", **(config or {})}), analysis=analysis(),
        made=made(**changes), deployment=deployed or deployment(),
    )  # fmt: skip
