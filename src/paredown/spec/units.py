"""Units of measured quantities, and how people read and write them."""

from __future__ import annotations

import math
import re
from enum import StrEnum
from typing import Any

GB = 1e9
"""One gigabyte, decimal: what disks, limits and reports use here."""


class Unit(StrEnum):
    """Unit of a measurement's value and standard error."""

    BYTES = "bytes"
    BITS_PER_WEIGHT = "bits/weight"
    BYTES_PER_TOKEN = "bytes/token"
    MS_PER_TOKEN = "ms/token"
    NATS_PER_TOKEN = "nats/token"
    PERPLEXITY = "perplexity"
    FRACTION = "fraction"
    RATIO = "ratio"
    SECONDS = "s"
    JOULES_PER_TOKEN = "J/token"
    POINTS = "points"


def human_bytes(n: float) -> str:
    """`269070000` -> `'269.1 MB'` (decimal units)."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(n) >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n:.0f} B"


_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>TB|GB|MB|kB|B)?", re.IGNORECASE)
_SIZES = {"tb": 1e12, "gb": 1e9, "mb": 1e6, "kb": 1e3, "b": 1.0}


def read_bytes_text(value: Any) -> Any:
    """`"4.2GB"` -> 4200000000 (decimal units); what is no text is left to the field's own check.

    Raises:
        ValueError: a text that is no size.
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value[:40]!r} is no size; write bytes, or as in 70MB or 4.2GB")
    return int(float(match["number"]) * _SIZES[(match["unit"] or "B").lower()])


def bytes_text(n: float) -> str:
    """`72351234` -> `'72.36MB'`: four digits, never below, as `read_bytes_text` reads it."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            step = 10.0 ** (math.floor(math.log10(n / size)) - 3)
            return f"{math.ceil(n / size / step - 1e-9) * step:.4g}{unit}"
    return f"{math.ceil(n)}B"


def human_seconds(s: float) -> str:
    """`75` -> `'1m15s'`; `3.2` -> `'3.2s'`."""
    if s < 10:
        return f"{s:.1f}s"
    if s < 60:
        return f"{s:.0f}s"
    minutes, seconds = divmod(round(s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


def human_energy(kwh: float) -> str:
    """`0.0123` -> `'12.3 Wh'`."""
    return f"{kwh:.3g} kWh" if kwh >= 1 else f"{kwh * 1e3:.3g} Wh"


def human_mass(kg: float) -> str:
    """`0.0123` -> `'12.3 g'`."""
    return f"{kg:.3g} kg" if kg >= 1 else f"{kg * 1e3:.3g} g"


def human_count(n: float) -> str:
    """`134515008` -> `'134.5M'`."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(n) >= size:
            return f"{n / size:.1f}{unit}"
    return f"{n:.0f}"
