"""Numbers as people read them: one place, so that table, figure and report say the same."""

from __future__ import annotations

import math
import re

from paredown.language import say
from paredown.spec.result import Measurement, TrialResult
from paredown.spec.units import Unit, human_bytes

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
LEVEL_95 = 1.96
"""Standard errors in half of a 95 % interval."""
NONE = "-"
"""Shown where nothing was measured."""


def number(value: float, stderr: float | None = None) -> str:
    """A number with the digits its standard error justifies; without one, four of them."""
    if not stderr or abs(value) >= 1e6:
        return f"{value:.4g}"
    return f"{value:.{_decimals(value, stderr)}f}"


def _decimals(value: float, stderr: float) -> int:
    """Places after the point for two digits of the error, at most seven digits of the value."""
    smallest = max(stderr, abs(value) * 1e-5)
    return max(0, 1 - math.floor(math.log10(smallest)))


def with_error(measurement: Measurement | None) -> str:
    """Value ± half of its 95 % interval, without the unit; sizes carry theirs."""
    if measurement is None:
        return NONE
    value, half = measurement.value, half_width(measurement)
    if measurement.unit is Unit.BYTES:
        spread = f" ± {human_bytes(half)}" if half else ""
        return human_bytes(value) + spread
    if not half:
        return number(value)
    spread = f"{half:.2g}" if abs(value) >= 1e6 else f"{half:.{_decimals(value, half)}f}"
    return f"{number(value, half)} ± {spread}"


def half_width(measurement: Measurement) -> float:
    """What stands behind ± wherever a number is shown: half of the 95 % interval; 0: unknown.

    One meaning everywhere, and that of the limits: a difference within it is not decided.
    """
    return LEVEL_95 * (measurement.stderr or 0.0)


def with_unit(measurement: Measurement | None) -> str:
    """`with_error` and the unit, where the unit is not in the name already."""
    text = with_error(measurement)
    silent = (Unit.BYTES, Unit.PERPLEXITY, Unit.FRACTION, Unit.RATIO)
    if measurement is None or measurement.unit in silent:
        return text
    return f"{text} {measurement.unit}"


def signed_percent(value: float | None) -> str:
    """`3.14` -> `'+3.1 %'`."""
    if value is None:
        return NONE
    return f"{value:+.1f} %" if abs(value) < 1000 else f"{value:+.2g} %"


def times(value: float | None) -> str:
    """`2.345` -> `'2.35x'`."""
    return NONE if value is None else f"{value:.2f}x"


def one_line(text: str, limit: int = 300) -> str:
    """`text` without line breaks, colour codes and control characters, cut to `limit`."""
    visible = "".join(c if c.isprintable() else " " for c in _COLOUR.sub("", text))
    flat = " ".join(visible.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def name_of(result: TrialResult) -> str:
    """How sentences call a result: `episode 3, gptq(bits=4)`."""
    if result.episode == 0:
        return say("the uncompressed model")
    return say("episode {number}, {strategy}", number=result.episode, strategy=result.label)
