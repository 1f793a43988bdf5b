"""RunConfig: the whole request of an experiment, as understood.

Each field is described once, under it: the command line, the environment, the file, the help and
the reference page derive from these classes. `spec/option.py` has the rule of the names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from paredown.language import Language
from paredown.spec import notation
from paredown.spec.benchmarks import split_request
from paredown.spec.option import COMMON, LIMITS, Group, Option
from paredown.spec.speed import SpeedGrid
from paredown.spec.target import Limits, Stream

PolicyName = Annotated[
    Literal["portfolio", "surrogate", "bayesian", "evolutionary", "bandit", "grid", "random"],
    BeforeValidator(lambda name: "bayesian" if name == "tpe" else name),  # its name in 0.1
]
Objective = Literal["quality", "size", "latency", "memory", "energy"]
OBJECTIVES: tuple[Objective, ...] = ("quality", "size", "latency", "memory")
"""What every machine measures."""
DEFAULT_OBJECTIVES: tuple[Objective, ...] = (*OBJECTIVES, "energy")
"""Energy only counts where the hardware measures it."""
DeviceName = Annotated[
    Literal["auto", "cpu", "cuda"],
    BeforeValidator(notation.device),
    Option("--device", panel=COMMON),
]
FilePath = Annotated[Path, AfterValidator(notation.located)]
MEASURING, CALIBRATION, SEARCH, LLM = "Measuring", "Calibration", "Search", "LLM"
"""Headings of the help."""
_PRICE = Annotated[float, Field(ge=0)]


class Amount(NamedTuple):
    """How much text is taken: what is wanted, and with how much of it the work is still worth it.

    Where the user names a number the two are equal: less than was asked for is refused.
    """

    wanted: int
    least: int

    def windows(self, length: int) -> Amount:
        """Tokens as windows of `length` tokens, rounded up."""
        return Amount(-(-self.wanted // length), -(-self.least // length))


_TOKENS = Amount(8192, 2048)
"""Below the least, the interval of a perplexity is too wide to tell one method from another."""
_SAMPLES = Amount(32, 8)
"""A quarter of the usual: Hessians are noisier then, and GPTQ is still better than rounding."""


class MeasureConfig(BaseModel):
    """How any model folder is measured."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    tokens: int | None = Field(default=None, ge=512)
    """Tokens of held-out text for perplexity, KL and top-1 agreement; None: 8192, or as many as
    the text holds out where those are fewer, and at least 2048."""
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
    grid: Annotated[
        SpeedGrid | None, BeforeValidator(SpeedGrid.read), Option(metavar="32,128x1,4|off")
    ] = None
    """Prompt lengths and batch sizes at which latency and throughput are measured as well; None:
    only at `prompt_tokens`, batch 1."""
    energy_s: float = Field(default=0.5, ge=0, le=60)
    """Seconds of each of the three windows over which energy per token is measured, decoding and
    prefilling; 0: no energy is measured, nor that of the whole run."""
    benchmarks: Annotated[
        tuple[str, ...],
        BeforeValidator(notation.listed),
        Option(repeat=True, complete="benchmarks"),
    ] = ()
    """Benchmarks to score on: names, `lm-eval:NAME`, or .jsonl files of questions."""
    limit: Annotated[int, Option("--limit", metavar="ITEMS")] = Field(default=100, ge=0)
    """Items per benchmark, a fixed draw over all its subjects; 0: all."""
    margin: Annotated[float, Option("--margin")] = Field(default=0.02, gt=0, lt=1)
    """Difference of a score that does not matter, for the test of equivalence with the base."""
    chat_template: Annotated[bool, Option("--chat-template/--no-chat-template")] = False
    """Whether benchmark prompts are wrapped in the tokenizer's chat template."""
    allow_unsandboxed_code: Annotated[
        bool, Option("--allow-unsandboxed-code/--no-allow-unsandboxed-code")
    ] = False
    """Whether model-written code (HumanEval) may run where no sandbox works."""

    stream: Stream = "auto"
    """Whether a model is judged block by block from disk, without being loaded: its quality and
    size in the memory of one block, and no latency, memory or energy. auto: where it does not fit
    in memory."""

    @property
    def amount(self) -> Amount:
        """Tokens of held-out text."""
        return _TOKENS if self.tokens is None else Amount(self.tokens, self.tokens)


class EvaluateConfig(MeasureConfig):
    """How the candidates of an experiment are measured: the worst of them not to the end."""

    screen: float | None = Field(default=4.0, ge=4)
    """In an experiment, a candidate is not measured any further once its perplexity on few tokens
    is surely beyond this multiple of the base's, and beyond the loss that is accepted; None: every
    candidate is measured in full."""
    stop_loss: float | None = Field(default=0.1, gt=0, lt=1)
    """In an experiment, a candidate is asked no further items of a benchmark once it has surely
    lost this much of the base's score; None: every candidate is asked all."""


class CalibrationConfig(BaseModel):
    """Text on which data-dependent methods calibrate."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    source: Annotated[str | None, Option("--calibration", complete="texts")] = None
    """Text, or a benchmark, whose training part is taken (arc_easy, gsm8k, mmlu, ...); None: the
    training part of the evaluation text."""
    samples: int | None = Field(default=None, ge=1)
    """Windows of calibration text; None: 32, or as many as the text has where those are fewer, and
    at least 8."""
    length: int = Field(default=512, ge=16)
    """Tokens per window."""

    @property
    def amount(self) -> Amount:
        """Windows of calibration text."""
        return _SAMPLES if self.samples is None else Amount(self.samples, self.samples)


class LlmConfig(BaseModel):
    """The language model that may advise the search. Keys are never part of a config: they are
    read from `OPENAI_API_KEY` when a request is sent."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    model: Annotated[str, Option("--llm", metavar="NAME")] = Field(
        default="gpt-4o", min_length=1, max_length=200
    )
    """Name of the model at the endpoint; `local` starts a server with the built-in model."""
    url: str | None = Field(default=None, pattern=r"^https?://")
    """Base of an OpenAI-compatible endpoint; None: `OPENAI_BASE_URL`, else OpenAI's."""
    budget_tokens: Annotated[int, Option("--llm-budget", metavar="TOKENS|2usd")] = Field(
        default=200_000, ge=0
    )
    """Tokens, sent and received, that the whole experiment may use; `2usd` means money, and sets
    `budget_usd` instead."""
    budget_usd: float | None = Field(default=None, ge=0)
    """Money that the whole experiment may use; needs a known price."""
    price: Annotated[
        tuple[_PRICE, _PRICE] | None, BeforeValidator(notation.by_commas), Option(metavar="IN,OUT")
    ] = None
    """US dollars per million tokens sent and received; None: paredown's own table."""
    share: float = Field(default=0.3, gt=0, le=1)
    """Largest share of the search's trials, in number and in cost, that are the LLM's: what it
    gets follows what it brings. 1: it leads, and every decision is asked of it."""
    answer_tokens: int = Field(default=700, ge=64)
    """Longest answer that is asked for."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds after which a request is given up."""

    @property
    def leads(self) -> bool:
        """Whether every decision is the LLM's."""
        return self.share >= 1

    @model_validator(mode="before")
    @classmethod
    def _budget_may_be_money(cls, fields: Any) -> Any:
        return notation.llm_budget(fields)

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

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    model: Annotated[str, Option("--model", "-m", panel=COMMON)]
    """Local folder, hub name (`OWNER/NAME@REVISION`), `modelscope:OWNER/NAME`, or `demo` (built
    in)."""
    data: Annotated[str, Option("--data", "-d", panel=COMMON, repeat=True, complete="data")] = (
        "pydoc"
    )
    """What to measure on: a text (`pydoc`, `self`, `wikitext2`, a .txt/.jsonl file or folder), and
    benchmarks (gsm8k, arc_easy, mmlu, ...; `lm-eval:NAME`; a .jsonl file of questions), one or a
    list: they become `evaluate.benchmarks`."""
    data_dir: Annotated[FilePath | None, Option(panel=MEASURING, metavar="DIR")] = None
    """Folder with offline data sets; None: PAREDOWN_DATA."""
    calibration: Annotated[CalibrationConfig, Group("calibration", CALIBRATION)] = (
        CalibrationConfig()
    )
    evaluate: Annotated[EvaluateConfig, Group("eval", MEASURING)] = EvaluateConfig()
    final_limit: Annotated[int | None, Option(panel=MEASURING, metavar="ITEMS")] = Field(
        default=None, ge=0
    )
    """Items per benchmark of the base and the front once the search has ended; 0: all; None: as
    many as in the search."""
    further_rounds: Annotated[int, Option(panel=MEASURING, metavar="ROUNDS")] = Field(
        default=2, ge=0, le=16
    )
    """How often a result may be asked as many benchmark items again, where a limit, the
    recommendation or the front depends on them; 0: never."""
    limits: Annotated[Limits, Group("", LIMITS)] = Limits()
    objectives: Annotated[
        tuple[Objective, ...],
        BeforeValidator(notation.by_commas),
        AfterValidator(notation.distinct),
        Option(panel=SEARCH, repeat=True, metavar="NAME[,NAME...]"),
    ] = Field(default=DEFAULT_OBJECTIVES, min_length=1)
    """What the Pareto front trades off; energy counts only where the hardware measures it."""
    quality: Annotated[str, Option(panel=SEARCH, metavar="NAME")] = "auto"
    """What counts as quality: `auto` (the benchmarks where some are named, else the perplexity of
    the text), `perplexity`, `kl` (the divergence from the base on the text), or one of the
    benchmarks by its name."""
    episodes: Annotated[int, Option("--episodes", "-e", panel=COMMON)] = Field(default=10, ge=1)
    """Strategies to try after the baseline."""
    workers: Annotated[int, Option(panel=SEARCH)] = Field(default=1, ge=1)
    """Trials at once. They share memory and processors; what measures time waits until it is alone
    on its machine."""
    executor: Annotated[Literal["local", "ray"], Option(panel=SEARCH)] = "local"
    """Where trials run: in processes of this machine, or on the nodes of a Ray cluster."""
    address: Annotated[str | None, Option(panel=SEARCH, metavar="HOST:PORT")] = Field(
        default=None, pattern=r"^[^/\s]+:[0-9]+$"
    )
    """Of the Ray cluster; None: RAY_ADDRESS, or the cluster that runs on this machine."""
    budget_h: Annotated[float | None, Option("--budget", "-b", panel=COMMON, metavar="HOURS")] = (
        Field(default=None, ge=1e-4)
    )
    """Hours for the whole experiment, 0.0001 at least; a trial that would run over is stopped."""
    trial_timeout_h: Annotated[float, Option(panel=SEARCH, metavar="HOURS")] = Field(
        default=4.0, gt=0
    )
    """Hours for one trial."""
    worker_memory_gb: Annotated[float | None, Option(panel=SEARCH, metavar="GB")] = Field(
        default=None, gt=0
    )
    """Memory a trial's process may use; None: nine tenths of what is free at its start."""
    methods: Annotated[
        tuple[str, ...] | None,
        BeforeValidator(notation.by_commas),
        Option(panel=COMMON, repeat=True, metavar="NAME[,NAME...]", complete="methods"),
    ] = Field(default=None, min_length=1)
    """Only these methods (see `paredown methods`); None: all that suit the model and this
    machine."""
    max_steps: Annotated[int, Option(panel=SEARCH)] = Field(default=2, ge=1, le=4)
    """Longest pipeline that the search proposes."""
    policy: Annotated[PolicyName, Option(panel=SEARCH)] = "portfolio"
    """What proposes strategies."""
    patience: Annotated[int | None, Option(panel=SEARCH)] = Field(default=5, ge=1)
    """Stop when so many episodes (and at least a fifth of all) were not worth their cost; None:
    only when the budget or the space is used up."""
    coordinator: Annotated[Literal["auto", "llm", "search"], Option(panel=LLM)] = "auto"
    """Whether an LLM advises the search; auto: if a key or an endpoint is configured; search:
    never."""
    llm: Annotated[LlmConfig, Group("llm", LLM)] = LlmConfig()
    country: Annotated[str | None, Option(panel=MEASURING, metavar="DEU")] = None
    """Country whose grid feeds the machine, three letters of ISO 3166, for the CO2e of the run;
    None: the average of the world."""
    skills: Annotated[bool, Option("--use-skills/--no-skills", panel=SEARCH)] = True
    """Whether to start from what earlier experiments taught, and to remember this one."""
    skills_file: Annotated[FilePath | None, Option("--skills", panel=SEARCH, metavar="FILE")] = None
    """Where skills are kept; None: in the user's data folder."""
    seed: Annotated[int, Option(panel=SEARCH)] = 0
    """Same seed, same proposals."""
    runtime: Annotated[str, Option(panel=COMMON, complete="runtimes")] = "torch"
    """Engine that will serve the model: only what it holds is tried, and everything is measured in
    it. `paredown runtimes` lists them. Of several (`llama.cpp,onnxruntime`), the first steers the
    search, and its front is measured in the others as well."""
    also_in: Annotated[
        tuple[str, ...],
        BeforeValidator(notation.by_commas),
        Option(panel=MEASURING, repeat=True, metavar="NAME[,NAME...]", complete="runtimes"),
    ] = ()
    """Further engines in which the base and the front are measured, after the search."""
    device: DeviceName = "auto"
    """Where the models run; auto: on a GPU where there is one."""
    trust_remote_code: bool = False
    """Whether Python code that comes with a model may run."""
    lang: Annotated[Language | None, BeforeValidator(notation.language)] = None
    """Language of the report and of what is printed at the end; None: that of the locale, else
    English."""

    @property
    def named_qualities(self) -> tuple[str, ...]:
        """What counts as quality instead of the text's perplexity: benchmarks, or `kl`."""
        if self.quality == "auto":
            return self.evaluate.benchmarks
        return () if self.quality == "perplexity" else (self.quality,)

    @field_validator("country")
    @classmethod
    def _in_capitals(cls, country: str | None) -> str | None:
        return None if country is None else country.strip().upper()

    @model_validator(mode="after")
    def _quality_is_measured(self) -> Self:
        named = self.evaluate.benchmarks
        if self.quality not in {"auto", "perplexity", "kl", *named}:
            raise ValueError(
                f"quality: {self.quality!r} is neither auto, perplexity, kl nor a benchmark of "
                f"this run ({', '.join(named) or 'it has none; -d NAME adds one'})"
            )
        scored = named and self.quality not in {"perplexity", "kl"}
        if self.limits.loss_points is not None and not scored:
            raise ValueError(
                f"limits.max_accuracy_loss: {self.limits.max_accuracy_loss} are points of a "
                "benchmark's score, and none counts as quality here; give percent, or -d NAME"
            )
        return self

    @model_validator(mode="after")
    def _address_is_used(self) -> Self:
        if self.address is not None and self.executor != "ray":
            raise ValueError(
                f"address: {self.address!r} is that of a Ray cluster, and the executor is "
                f"{self.executor}; add --executor ray, or leave it out"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _runtime_may_name_several(cls, fields: Any) -> Any:
        wanted = fields.get("runtime") if isinstance(fields, dict) else None
        if not isinstance(wanted, str) or "," not in wanted:
            return fields
        first, *others = notation.by_commas(wanted) or [wanted]
        also = notation.by_commas(fields.get("also_in", ()))
        if not isinstance(also, list):
            return fields | {"runtime": first}  # its type is refused by the field
        named = dict.fromkeys([*others, *also])
        return fields | {"runtime": first, "also_in": tuple(n for n in named if n != first)}

    @model_validator(mode="before")
    @classmethod
    def _data_may_name_benchmarks(cls, fields: Any) -> Any:
        wanted = notation.text_list(fields, "data")
        if wanted is None:
            return fields
        text, named = split_request(wanted)
        if not named:
            return fields | {"data": text}
        evaluate = fields.get("evaluate") or {}
        if isinstance(evaluate, EvaluateConfig):
            evaluate = evaluate.model_dump()
        before = notation.listed(evaluate.get("benchmarks", ()))
        listed = dict.fromkeys([*before, *named])
        return fields | {"data": text, "evaluate": {**evaluate, "benchmarks": tuple(listed)}}
