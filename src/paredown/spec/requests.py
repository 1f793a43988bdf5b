"""The requests of single jobs: what `paredown compress` and `paredown evaluate` are told.

Like `RunConfig` they are the one place where a setting is described; command line, environment
and file derive from them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

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
