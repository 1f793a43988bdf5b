"""Where the model will run, and what the user can accept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from paredown.spec.option import Option
from paredown.spec.units import read_bytes_text

Device = Literal["cpu", "cuda"]
Stream = Literal["auto", "always", "never"]
"""Whether a model is judged block by block, without being loaded; auto: where it does not fit."""
_POINTS = "pt"


def _percent_or_points(value: Any) -> Any:
    """`"2"` and `"2%"` are percent, so numbers; `"2 pt"` stays a text, without its space."""
    if not isinstance(value, str):
        return value
    text = value.replace(" ", "")
    return text if text.endswith(_POINTS) else text.removesuffix("%")


def _times_smaller(ratio: float | None) -> float | None:
    """Refuse a share of the size where a number of times is meant, and say which it would be."""
    if ratio is None or ratio > 1:
        return ratio
    if 0 < ratio < 1:
        raise PydanticCustomError(
            "ratio",
            "says how many times smaller the files are to be, so it is above 1: for {percent} % "
            "of the size give {times}",
            {"percent": f"{100 * ratio:.3g}", "times": f"{1 / ratio:.3g}"},
        )
    raise PydanticCustomError("ratio", "says how many times smaller the files are to be: above 1")


class Limits(BaseModel):
    """The user's limits; None means no limit."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    size: Annotated[
        Annotated[int, Field(gt=0)] | None,
        BeforeValidator(read_bytes_text),
        Option(metavar="BYTES|4.2GB"),
    ] = None
    """Bytes of the weights files at most, or a text such as `4.2GB`; the search begins with the
    model whose bits are chosen layer by layer for just that size."""
    bpw: Annotated[float | None, Option(metavar="BITS")] = Field(default=None, gt=0, le=32)
    """The same in bits per weight: all bytes of the weights files over the model's parameters."""
    kl: Annotated[float | None, Option(metavar="NATS")] = Field(default=None, gt=0)
    """Divergence from the base's next-token probabilities on the held-out text at most, in nats per
    token; the search begins with the smallest model that is forecast to keep it."""
    max_memory_gb: float | None = Field(default=None, gt=0)
    """Peak memory of the process that serves the model, in 1e9 bytes."""
    max_accuracy_loss: Annotated[
        Annotated[float, Field(ge=0)] | Annotated[str, Field(pattern=r"^\d+(\.\d+)?pt$")] | None,
        BeforeValidator(_percent_or_points),
        Option("--max-accuracy-loss", "--max-loss", metavar="PERCENT|2pt"),
    ] = None
    """Loss of quality: in percent of the baseline's (for a text: rise of perplexity), or, as `2pt`,
    in points of the benchmarks' score."""
    min_speedup: float | None = Field(default=None, gt=0)
    """Decode speed relative to the baseline; 1.5 means 1.5 times as fast."""
    target_ratio: Annotated[float | None, AfterValidator(_times_smaller)] = None
    """Size of the baseline's files over the artifact's; 3 means three times smaller."""
    max_energy: float | None = Field(default=None, gt=0)
    """Energy per generated token relative to the baseline; 0.5 means half as much."""

    @property
    def accepts_loss(self) -> bool:
        """Whether a bound on quality says how much may be lost."""
        return self.max_accuracy_loss is not None or self.kl is not None

    def most_bytes(self, parameters: int) -> int | None:
        """Of the weights files, at most, by `size` and `bpw`; None where neither is set.

        Args:
            parameters: of the uncompressed model.
        """
        bounds = [] if self.size is None else [self.size]
        if self.bpw is not None:
            bounds.append(int(self.bpw * parameters / 8))
        return min(bounds, default=None)

    @property
    def loss_percent(self) -> float | None:
        """The accepted loss of quality, where it was given in percent."""
        return self.max_accuracy_loss if isinstance(self.max_accuracy_loss, float) else None

    @property
    def loss_points(self) -> float | None:
        """The accepted loss of quality, where it was given in points."""
        loss = self.max_accuracy_loss
        return float(loss.removesuffix(_POINTS)) if isinstance(loss, str) else None


class Target(BaseModel):
    """Device, runtime and limits."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    device: Device = "cpu"
    runtime: str = "torch"
    """Name of the runtime that must hold whatever is made."""
    limits: Limits = Limits()
