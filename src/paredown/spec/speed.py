"""Latency and throughput over a grid of prompt lengths and batch sizes."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from paredown.errors import ConfigError

_Sizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]


class SpeedGrid(BaseModel):
    """At which points a model is timed."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    prompts: _Sizes = (32, 128, 512)
    """Lengths of prompts, tokens."""
    batches: _Sizes = (1, 4)
    """Prompts side by side."""
    decode_tokens: int = Field(default=16, ge=2)
    """Tokens decoded behind each prompt."""
    seconds: float = Field(default=2.0, gt=0)
    """Repeats at one point end when the intervals of both medians are within 5 %, or after so long;
    there are three at least."""

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{','.join(map(str, self.prompts))}x{','.join(map(str, self.batches))}"

    @staticmethod
    def read(value: object) -> object:
        """`value` as it is, or parsed where it is a text; before the validation of a field."""
        return SpeedGrid.parse(value) if isinstance(value, str) else value

    @staticmethod
    def parse(text: str) -> SpeedGrid | None:
        """`32,128x1,4`: prompts of 32 and 128 tokens, each alone and four side by side; or `off`.

        Raises:
            ConfigError: it is written in another way.
        """
        if text == "off":
            return None
        try:
            prompts, batches = ([int(n) for n in part.split(",")] for part in text.split("x"))
            return SpeedGrid(prompts=tuple(prompts), batches=tuple(batches))
        except ValueError:
            raise ConfigError(
                f"--grid {text[:80]!r}: give lengths of prompts and sizes of batches, as in "
                "'32,128,512x1,4', or 'off'"
            ) from None


class Timing(BaseModel):
    """What one pass takes, over its repeats."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    median_ms: float
    """Of a whole batch: of reading its prompts, or of one token for each of them."""
    low_ms: float
    high_ms: float
    """95 % interval of the median."""
    p90_ms: float
    """Nine of ten are no slower."""
    tokens_per_s: float
    """Of all prompts together, at the median."""


class SpeedPoint(BaseModel):
    """One point of the grid."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    prompt_tokens: int
    batch: int
    decode_tokens: int
    n: int
    """Repeats, after a warm-up."""
    prefill: Timing
    decode: Timing
    tight: bool
    """Whether both intervals are within 5 %; else the time was up."""
    how: str
    """Device, threads and clock."""
