"""The requests of `paredown match` and `paredown predict`: what is to be sized, and for what.

Like `RunConfig` they are the one place where a setting is described. Which settings go together is
checked where they are used, so that each may be said in any door.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from paredown.spec import notation
from paredown.spec.option import COMMON, LIMITS, Group, Option
from paredown.spec.run import DeviceName, FilePath
from paredown.spec.target import Limits

Mode = Literal["full", "lora", "qlora"]
Optimizer = Literal["adamw", "adamw8bit", "adamw_bf16"]
BATCH, REQUESTS, HARDWARE, TRAINING = "A batch", "A stream of requests", "Hardware", "Training"
"""Headings of the help."""
_SLO = re.compile(r"(ttft|tpot)=(\d+(?:\.\d+)?)(ms|s)")
_USD = re.compile(r"\$?(\d+(?:\.\d+)?)(usd)?(/h)?")


class LatencyGoal(BaseModel):
    """The longest that a request may take."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ttft_s: float | None = Field(default=None, gt=0)
    """Seconds to the first token."""
    tpot_s: float | None = Field(default=None, gt=0)
    """Seconds for each further token."""


def _goal(value: Any) -> Any:
    """`ttft=500ms,tpot=0.05s` as a goal."""
    if not isinstance(value, str):
        return value
    found: dict[str, float] = {}
    for word in value.replace(" ", "").split(","):
        told = _SLO.fullmatch(word)
        if told is None:
            raise ValueError("write ttft=500ms,tpot=50ms, or one of them")
        found[f"{told[1]}_s"] = float(told[2]) / (1000 if told[3] == "ms" else 1)
    return found


def _dollars(value: Any) -> Any:
    """`2usd/h` as 2.0."""
    if not isinstance(value, str):
        return value
    told = _USD.fullmatch(value.lower().replace(" ", ""))
    if told is None:
        raise ValueError("write US dollars an hour, as in 2usd/h")
    return float(told[1])


class MatchRequest(BaseModel):
    """Which model is served or trained, how, and on what."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    model: Annotated[str | None, Option("--model", "-m", panel=COMMON)] = None
    """Local folder, hub name, or `demo` (built in)."""
    precision: Annotated[str | None, Option("--precision", "-p", panel=COMMON, metavar="WORDS")] = (
        None
    )
    """Versions with commas between them: fp32, bf16, fp8, int8, int4, folders of artifacts,
    strategies; None: bf16,fp8,int8,int4."""
    batch: Annotated[int, Option(panel=BATCH)] = Field(default=1, ge=1)
    """Sequences side by side; in training of one step, over all devices."""
    context: Annotated[int | None, Option(panel=BATCH)] = Field(default=None, ge=2)
    """Tokens of each; None: 4096, in training 2048, or the model's if shorter."""
    prompt: Annotated[int | None, Option("--input", panel=BATCH)] = Field(default=None, ge=1)
    """Of these tokens, those that are read before the first is written; None: 512."""
    requests_per_s: Annotated[float | None, Option(panel=REQUESTS)] = Field(default=None, gt=0)
    """Requests per second on average, instead of a batch."""
    output: Annotated[int | None, Option(panel=REQUESTS)] = Field(default=None, ge=1)
    """Tokens of an answer; None: 128."""
    slo: Annotated[
        LatencyGoal | None,
        BeforeValidator(_goal),
        Option(panel=REQUESTS, metavar="ttft=500ms,tpot=50ms"),
    ] = None
    """Longest time to the first token, and for each further one; None: any."""
    gpu: Annotated[
        tuple[str, ...] | None,
        BeforeValidator(notation.by_commas),
        Option(panel=HARDWARE, repeat=True, metavar="NAME[,NAME...]"),
    ] = Field(default=None, min_length=1)
    """Only these devices; a part of a name takes all that have it."""
    budget: Annotated[
        float | None, BeforeValidator(_dollars), Option(panel=HARDWARE, metavar="2usd/h")
    ] = Field(default=None, gt=0)
    """What an hour may cost at most, by the lowest price; None: anything."""
    on_prem: Annotated[bool, Option(panel=HARDWARE)] = False
    """Devices are bought, not rented: launch price over three years, and electricity."""
    runtime: Annotated[str | None, Option(panel=HARDWARE, complete="runtimes")] = None
    """Engine that serves; None: the usual one of each device."""
    catalogue: Annotated[FilePath | None, Option(panel=HARDWARE, metavar="FILE")] = None
    """YAML with devices of your own; see docs/sizing.md."""
    train: Annotated[
        tuple[Mode, ...] | None,
        BeforeValidator(notation.by_commas),
        Option(panel=TRAINING, repeat=True, metavar="full,lora,qlora"),
    ] = Field(default=None, min_length=1)
    """Training instead of serving: all weights, an adapter, an adapter on 4-bit weights."""
    rank: Annotated[int, Option(panel=TRAINING)] = Field(default=16, ge=1)
    """Of the adapter, on every linear layer of the blocks."""
    optimizer: Annotated[Optimizer, Option(panel=TRAINING)] = "adamw"
    """Its states: two moments in 32, 8 or 16 bits, and a 32-bit copy except with the last."""
    checkpointing: Annotated[bool, Option(panel=TRAINING)] = True
    """Whether blocks are computed a second time instead of being remembered."""


class PredictRequest(BaseModel):
    """Which strategies are predicted, for which model and limits."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    model: Annotated[str | None, Option("--model", "-m", panel=COMMON)] = None
    """Local folder, hub name, or `demo` (built in)."""
    strategies: Annotated[
        tuple[str, ...],
        BeforeValidator(notation.listed),
        Option("--strategy", "-s", panel=COMMON, repeat=True, metavar="STRATEGY"),
    ] = ()
    """Strategies, such as `gptq(bits=4)`; none: those that are known of other models."""
    context: Annotated[int | None, Option(panel=COMMON)] = Field(default=None, ge=2)
    """Tokens of a sequence that memory and speed are predicted for; None: 160, as measured."""
    device: DeviceName = "auto"
    """Where the model runs; auto: on a GPU where there is one."""
    runtime: Annotated[str, Option(panel=COMMON, complete="runtimes")] = "torch"
    """Engine that must hold what is made; `paredown runtimes` lists them."""
    skills: Annotated[bool, Option("--skills/--no-skills", panel=COMMON)] = True
    """Whether what earlier experiments taught is asked."""
    limits: Annotated[Limits, Group("", LIMITS)] = Limits()
    """What can be accepted."""
