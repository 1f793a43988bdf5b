"""RunConfig: the whole request of an experiment, as understood."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from paredown.spec.benchmarks import split_request
from paredown.spec.speed import SpeedGrid
from paredown.spec.target import Limits

PolicyName = Annotated[
    Literal["portfolio", "surrogate", "bayesian", "evolutionary", "bandit", "grid", "random"],
    BeforeValidator(lambda name: "bayesian" if name == "tpe" else name),  # its name in 0.1
]
Objective = Literal["quality", "size", "latency", "memory"]
OBJECTIVES: tuple[Objective, ...] = ("quality", "size", "latency", "memory")


class EvaluateConfig(BaseModel):
    """How an artifact is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    tokens: int = Field(default=8192, ge=512)
    """Tokens of held-out text for perplexity, KL and top-1 agreement."""
    screen: float | None = Field(default=4.0, ge=4)
    """In an experiment, a candidate is not measured any further once its perplexity on few tokens
    is surely beyond this multiple of the base's, and beyond the loss that is accepted; None: every
    candidate is measured in full."""
    window: int = Field(default=512, ge=16)
    """Tokens per non-overlapping window; shortened to the model's context."""
    prompt_tokens: int = Field(default=128, ge=1)
    """Prompt length of the latency measurement."""
    decode_tokens: int = Field(default=32, ge=4)
    """Tokens decoded per repeat of the latency measurement."""
    repeats: int = Field(default=5, ge=2)
    """Repeats of the latency measurement at least, after one warm-up."""
    repeat_s: float = Field(default=5.0, gt=0)
    """Seconds within which repeats go on until the intervals of the medians are within 5 %."""
    grid: SpeedGrid | None = None
    """Prompt lengths and batch sizes at which latency and throughput are measured as well; None:
    only at `prompt_tokens`, batch 1. `paredown evaluate` has a grid of its own."""
    energy_s: float = Field(default=0.5, ge=0, le=60)
    """Seconds of each of the three windows over which energy per token is measured, decoding and
    prefilling; 0: no energy is measured, nor that of the whole run."""
    benchmarks: tuple[str, ...] = ()
    """Benchmarks to score on: names, `lm-eval:NAME`, or .jsonl files of questions."""
    limit: int = Field(default=100, ge=0)
    """Items per benchmark, a fixed draw over all its subjects; 0: all."""
    margin: float = Field(default=0.02, gt=0, lt=1)
    """Difference of a score that does not matter, for the test of equivalence with the base."""
    stop_loss: float | None = Field(default=0.1, gt=0, lt=1)
    """In an experiment, a candidate is asked no further items of a benchmark once it has surely
    lost this much of the base's score; None: every candidate is asked all."""
    chat_template: bool = False
    """Whether benchmark prompts are wrapped in the tokenizer's chat template."""
    allow_unsandboxed_code: bool = False
    """Whether model-written code (HumanEval) may run where no sandbox works."""


class CalibrationConfig(BaseModel):
    """Text on which data-dependent methods calibrate."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    source: str | None = None
    """Text source; None takes the training part of the evaluation data."""
    samples: int = Field(default=32, ge=1)
    """Windows of calibration text."""
    length: int = Field(default=512, ge=16)
    """Tokens per window."""


class LlmConfig(BaseModel):
    """The language model that may advise the search. Keys are never part of a config: they are
    read from `OPENAI_API_KEY` when a request is sent."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str = Field(default="gpt-4o", min_length=1, max_length=200)
    """Name of the model at the endpoint; `local` starts a server with the built-in model."""
    url: str | None = Field(default=None, pattern=r"^https?://")
    """Base of an OpenAI-compatible endpoint; None: `OPENAI_BASE_URL`, else OpenAI's."""
    budget_tokens: int = Field(default=200_000, ge=0)
    """Tokens, sent and received, that the whole experiment may use."""
    budget_usd: float | None = Field(default=None, ge=0)
    """Money that the whole experiment may use; needs a known price."""
    price: tuple[float, float] | None = None
    """US dollars per million tokens sent and received; None: paredown's own table."""
    answer_tokens: int = Field(default=700, ge=64)
    """Longest answer that is asked for."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds after which a request is given up."""

    @field_validator("url")
    @classmethod
    def _holds_no_secret(cls, url: str | None) -> str | None:
        # Not shown in the message: it may hold a key.
        if url is not None and any(mark in url for mark in "@?#"):
            raise PydanticCustomError(
                "secret", "an address without user, password or query; keys go to OPENAI_API_KEY"
            )
        return url


class RunConfig(BaseModel):
    """Everything that decides what an experiment does. Two equal configs are one experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str
    """Local folder, hub name, or `demo`."""
    data: str = "pydoc"
    """Evaluation text: `pydoc`, `self`, `wikitext2`, or a .txt/.jsonl file or folder. Benchmarks
    may be named here, too, one or a list: they become `evaluate.benchmarks`."""
    data_dir: Path | None = None
    """Folder with offline data sets."""
    calibration: CalibrationConfig = CalibrationConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    final_limit: int | None = Field(default=None, ge=0)
    """Items per benchmark of the base and the front once the search has ended; 0: all; None: as
    many as in the search."""
    limits: Limits = Limits()
    objectives: tuple[Objective, ...] = OBJECTIVES
    """What the Pareto front trades off."""
    episodes: int = Field(default=10, ge=1)
    """Trials after the baseline."""
    budget_h: float | None = Field(default=None, gt=0)
    """Hours for the whole experiment; a trial that would run over is stopped."""
    trial_timeout_h: float = Field(default=4.0, gt=0)
    """Hours for one trial."""
    worker_memory_gb: float | None = Field(default=None, gt=0)
    """Memory a trial's process may use; None: nine tenths of what is free at its start."""
    methods: tuple[str, ...] | None = None
    """Methods to search over; None: all that suit the model and this machine."""
    max_steps: int = Field(default=2, ge=1, le=4)
    """Longest pipeline that the search proposes."""
    policy: PolicyName = "portfolio"
    """What proposes strategies."""
    patience: int | None = Field(default=5, ge=1)
    """Stop when so many episodes (and at least a fifth of all) were not worth their cost; None:
    only when the budget or the space is used up."""
    coordinator: Literal["auto", "llm", "search"] = "auto"
    """Whether an LLM advises the search; auto: if a key or an endpoint is configured."""
    llm: LlmConfig = LlmConfig()
    country: str | None = None
    """Country whose grid feeds the machine, three letters of ISO 3166, for the CO2e of the run;
    None: the average of the world."""
    skills: bool = True
    """Whether to start from what earlier experiments taught, and to remember this one."""
    skills_file: Path | None = None
    """Where skills are kept; None: in the user's data folder."""
    seed: int = 0
    runtime: str = "torch"
    """Engine that will serve the model: only what it holds is tried, and everything is measured in
    it. `paredown runtimes` lists them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trust_remote_code: bool = False

    @field_validator("country")
    @classmethod
    def _in_capitals(cls, country: str | None) -> str | None:
        return None if country is None else country.strip().upper()

    @model_validator(mode="before")
    @classmethod
    def _data_may_name_benchmarks(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or not isinstance(fields.get("data"), str | list | tuple):
            return fields
        wanted = [fields["data"]] if isinstance(fields["data"], str) else [*fields["data"]]
        text, named = split_request(wanted)
        if not named:
            return fields | {"data": text}
        evaluate = fields.get("evaluate") or {}
        if isinstance(evaluate, EvaluateConfig):
            evaluate = evaluate.model_dump()
        listed = dict.fromkeys([*evaluate.get("benchmarks", ()), *named])
        return fields | {"data": text, "evaluate": {**evaluate, "benchmarks": tuple(listed)}}
