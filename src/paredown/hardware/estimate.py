"""Numbers that say how they are known: a value, between what it may lie, and its source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self, final

Source = Literal["measured", "derived", "estimated"]
_ORDER: tuple[Source, ...] = ("measured", "derived", "estimated")


@final
@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One number of a prediction.

    Attributes:
        value: in the unit of whoever reads it.
        low, high: between which it is expected; both the value where it is exact.
        source: `measured` here, `derived` exactly from counts, or `estimated` by a model.
    """

    value: float
    low: float
    high: float
    source: Source

    @classmethod
    def exact(cls, value: float) -> Self:
        """Counted, not guessed."""
        return cls(value=value, low=value, high=value, source="derived")

    @classmethod
    def within(cls, value: float, factor: float) -> Self:
        """Estimated, right within a factor either way."""
        return cls(value=value, low=value / factor, high=value * factor, source="estimated")

    def mapped(self, factor: float) -> Estimate:
        """In another unit, `factor` of which are one of this."""
        return Estimate(
            value=self.value * factor, low=self.low * factor, high=self.high * factor,
            source=self.source,
        )  # fmt: skip

    def inverse(self, of: float = 1.0) -> Estimate:
        """`of` over this: tokens per second from seconds per token."""
        return Estimate(
            value=of / self.value, low=of / self.high, high=of / self.low, source=self.source
        )


def added(parts: Iterable[Estimate]) -> Estimate:
    """The sum; its ends are the sums of the ends, because parts err the same way together."""
    found = list(parts)
    return Estimate(
        value=sum(p.value for p in found),
        low=sum(p.low for p in found),
        high=sum(p.high for p in found),
        source=max((p.source for p in found), key=_ORDER.index, default="derived"),
    )
