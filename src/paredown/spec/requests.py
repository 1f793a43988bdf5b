"""The requests of single jobs: what `paredown compress`, `evaluate` and `deploy` are told.

Like `RunConfig` they are the one place where a setting is described; command line, environment
and file derive from them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from paredown.spec import notation
from paredown.spec.option import COMMON, OTHER, Option
from paredown.spec.run import (
    CALIBRATION,
    MEASURING,
    CalibrationConfig,
    DeviceName,
    FilePath,
    MeasureConfig,
)
from paredown.spec.speed import SpeedGrid


class CompressRequest(CalibrationConfig):
    """On which model, text and device one strategy is carried out."""

    source: Annotated[str | None, Option("--calibration", panel=CALIBRATION, complete="texts")] = (
        None
    )
    """Text that calibrates; None: the training part of `data`."""
    model: Annotated[str, Option("--model", "-m", panel=COMMON)]
    """Local folder, hub name, or `demo` (built in)."""
    data: Annotated[str, Option("--data", "-d", panel=COMMON, complete="texts")] = "pydoc"
    """Text whose training part calibrates."""
    data_dir: Annotated[FilePath | None, Option(panel=CALIBRATION, metavar="DIR")] = None
    """Folder with offline data sets; None: PAREDOWN_DATA."""
    device: DeviceName = "auto"
    """Where the model runs; auto: on a GPU where there is one."""
    runtime: Annotated[str, Option(panel=COMMON, complete="runtimes")] = "torch"
    """Engine that must load the artifact; `paredown runtimes` lists them."""
    seed: Annotated[int, Option(panel=COMMON)] = 0
    """Same seed, same artifact."""
    trust_remote_code: Annotated[bool, Option(panel=OTHER)] = False
    """Whether Python code that comes with a model may run."""


class FrontRequest(CompressRequest):
    """Of which model the curve is wanted, how fine, and on what it is judged."""

    points: Annotated[int, Option(panel=COMMON)] = Field(default=12, ge=3, le=40)
    """Plans along the curve, from ruined to nothing lost."""
    tokens: Annotated[int | None, Option("--eval-tokens", panel=MEASURING)] = Field(
        default=None, ge=512
    )
    """Tokens of held-out text on which each is judged; None: 8192, or as many as the text holds out
    where those are fewer, and at least 2048."""
    window: Annotated[int, Option("--eval-window", panel=MEASURING)] = Field(default=512, ge=16)
    """Tokens per non-overlapping window; shortened to the model's context."""
    uniform: Annotated[bool, Option("--uniform/--no-uniform", panel=COMMON)] = True
    """Whether models with all layers alike are measured beside them, for comparison."""


class EvaluateRequest(MeasureConfig):
    """Which model is measured, against which base, on what."""

    model: Annotated[str, Option(metavar="MODEL", panel=COMMON)]
    """Artifact, model folder, hub name, or `demo`."""
    data: Annotated[
        tuple[str, ...],
        BeforeValidator(notation.listed),
        Option("--data", "-d", panel=COMMON, repeat=True, complete="data"),
    ] = Field(default=("pydoc",), min_length=1)
    """What to measure on: benchmarks (gsm8k, arc_easy, mmlu, ...; `lm-eval:NAME`; a .jsonl file of
    questions) and one text (`pydoc`, `self`, `wikitext2`, or a file or folder)."""
    base: Annotated[str | None, Option(panel=COMMON)] = None
    """Model to compare with; None: the artifact's own base, or the model itself."""
    device: DeviceName = "auto"
    """Where the model runs; auto: on a GPU where there is one."""
    runtime: Annotated[str, Option(panel=COMMON, complete="runtimes")] = "torch"
    """Engine in which the model and its base are measured; `paredown runtimes` lists them."""
    only_benchmarks: Annotated[bool, Option(panel=COMMON)] = False
    """Whether perplexity, KL, latency and memory are left out."""
    grid: Annotated[
        SpeedGrid | None,
        BeforeValidator(SpeedGrid.read),
        Option(metavar="32,128x1,4|off", panel=MEASURING),
    ] = SpeedGrid()
    """Prompt lengths and batch sizes at which latency and throughput are measured."""
    data_dir: Annotated[FilePath | None, Option(panel=MEASURING, metavar="DIR")] = None
    """Folder with offline data sets; None: PAREDOWN_DATA."""
    trust_remote_code: Annotated[bool, Option(panel=OTHER)] = False
    """Whether Python code that comes with a model may run."""


SERVING = "How it is served"
PROVING = "How it is proved"


class DeployRequest(BaseModel):
    """Which artifact becomes a package of which engine, how it is proved, and how it is served."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    model: Annotated[str, Option(metavar="ARTIFACT", panel=COMMON)]
    """Model folder, or `EXPERIMENT[#EPISODE]`: without a number the recommended one."""
    runtime: Annotated[str, Option("--to", panel=COMMON, complete="runtimes")] = "llama.cpp"
    """Engine that will serve it."""
    base: Annotated[str | None, Option(panel=COMMON)] = None
    """Model to measure beside; None: the artifact's own base."""
    name: Annotated[str | None, Option(panel=COMMON)] = None
    """Under which it is served; None: the name of the output folder."""
    data: Annotated[
        tuple[str, ...],
        BeforeValidator(notation.listed),
        Option("--data", "-d", panel=PROVING, repeat=True, complete="data"),
    ] = Field(default=("pydoc",), min_length=1)
    """A text and benchmarks to measure on in the engine."""
    tokens: Annotated[int | None, Option(panel=PROVING)] = Field(default=None, ge=512)
    """Tokens of held-out text; None: 8192, or as many as the text has where those are fewer."""
    limit: Annotated[int, Option(panel=PROVING, metavar="ITEMS")] = Field(default=100, ge=0)
    """Items per benchmark, a fixed draw over all its subjects; 0: all."""
    max_kl: Annotated[float, Option(panel=PROVING)] = Field(default=0.02, gt=0)
    """Nats per token from the artifact that the engine's rounding may cause."""
    data_dir: Annotated[FilePath | None, Option(panel=PROVING, metavar="DIR")] = None
    """Folder with offline data sets; None: PAREDOWN_DATA."""
    max_memory_gb: Annotated[float | None, Option(panel=SERVING, metavar="GB")] = Field(
        default=None, gt=0
    )
    """Memory that the server may take; None: 80 % of this machine's."""
    context: Annotated[int | None, Option(panel=SERVING, metavar="TOKENS")] = Field(
        default=None, ge=1
    )
    """Of one request, prompt and answer together; None: 4096, or what the memory allows."""
    slots: Annotated[int | None, Option(panel=SERVING)] = Field(default=None, ge=1)
    """Requests that are worked on at once; None: 4, or what the memory allows."""
    threads: Annotated[int | None, Option(panel=SERVING)] = Field(default=None, ge=1)
    """Of the processor; None: one for each physical core."""
    cache: Annotated[str | None, Option(panel=SERVING, metavar="TYPE")] = None
    """How keys and values are stored: f16, or q8_0 for half the memory and other answers; None:
    the engine's default."""
    port: Annotated[int, Option(panel=SERVING)] = Field(default=8080, ge=1, le=65535)
    """On which it will listen."""
    device: DeviceName = "auto"
    """Where it is proved; auto: on a GPU where there is one."""
    trust_remote_code: Annotated[bool, Option(panel=OTHER)] = False
    """Whether Python code that comes with a model may run."""
