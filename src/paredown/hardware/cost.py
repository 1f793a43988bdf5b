"""What devices cost while they serve: rent or purchase, electricity, energy per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from paredown.hardware.catalogue import Accelerator
from paredown.hardware.estimate import Estimate

POWER_SHARE = (0.4, 0.7, 1.0)
"""Of the nominal watts that serving draws: at least, usually, at most."""
YEARS = 3.0
"""Over which a bought device is written off."""
KWH_USD = (0.10, 0.40)
"""Price of a kilowatt-hour, low and high."""


@final
@dataclass(frozen=True, kw_only=True)
class Cost:
    """US dollars, as a range over providers; per hour, and per million generated tokens."""

    hour_low: float
    hour_high: float
    million_low: float
    million_high: float
    basis: str
    """What the range is of, with its date."""


def energy_of(device: Accelerator, count: int, tokens_per_s: float) -> Estimate | None:
    """Joules per generated token of `count` devices; None where their power is not known."""
    if device.tdp_w is None:
        return None
    low, usual, high = (share * device.tdp_w * count / tokens_per_s for share in POWER_SHARE)
    return Estimate(value=usual, low=low, high=high, source="estimated")


def cost_of(
    device: Accelerator, count: int, tokens_per_s: float, *, on_prem: bool = False
) -> Cost | None:
    """What `count` devices cost; None where the price is not known.

    Args:
        on_prem: whether they are bought; else they are rented.
    """
    hourly = _bought(device) if on_prem else _rented(device)
    if hourly is None:
        return None
    low, high, basis = hourly
    million = 1e6 / 3600 / tokens_per_s  # hours for a million tokens
    return Cost(
        hour_low=count * low, hour_high=count * high, million_low=count * low * million,
        million_high=count * high * million, basis=basis,
    )  # fmt: skip


def _rented(device: Accelerator) -> tuple[float, float, str] | None:
    low, high = device.usd_per_hour_low, device.usd_per_hour_high
    if low is None or high is None:
        return None
    return low, high, f"rent, {device.price_date}"


def _bought(device: Accelerator) -> tuple[float, float, str] | None:
    """Price over its years, and the electricity."""
    if device.launch_usd is None or device.tdp_w is None:
        return None
    hourly = device.launch_usd / (YEARS * 365 * 24)
    low, _, high = (share * device.tdp_w / 1000 for share in POWER_SHARE)
    basis = f"launch price over {YEARS:g} years and electricity; street prices differ"
    return hourly + low * KWH_USD[0], hourly + high * KWH_USD[1], basis
