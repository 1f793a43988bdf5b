"""Devices that a model may run on: what they have, where each figure comes from, what they cost.

The shipped figures are `devices.csv`; users add their own in YAML, with the same names:

    devices:
      - {name: Our box, memory_gb: 48, bandwidth_gb_s: 864, fp16_tflops: 181, source: an invoice}

A figure is *verified* (found in a source that measured or specifies it), *derived* (from another
figure by a rule that the source states) or *unverified*; who shows it says which.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from paredown.errors import ConfigError, did_you_mean
from paredown.spec.reading import read_text, read_yaml

SHIPPED = "devices.csv"
Vendor = Literal["nvidia", "amd", "intel", "apple", "other"]
Figure = Literal[
    "memory", "bandwidth", "fp16", "fp8", "int8", "int4", "fp4", "tdp", "interconnect", "launch"
]
GIB = 1 << 30
_USABLE = 0.9375
"""Share of the nominal GiB that is left where nobody has looked: error correction and firmware
take up to a sixteenth (T4: 15 of 16, L40S: 45 of 48)."""
_UNIFIED = 0.75
"""Share of Apple's unified memory that the GPU takes by default."""


def _words(value: object) -> object:
    """`"memory fp16"` as two words; lists as they are."""
    return tuple(value.split()) if isinstance(value, str) else value


_Figures = Annotated[tuple[Figure, ...], BeforeValidator(_words)]
_Rate = Annotated[float | None, Field(gt=0.05, lt=100_000)]
_Usd = Annotated[float | None, Field(ge=0, lt=1_000_000)]


class Accelerator(BaseModel):
    """One kind of device. None: nobody has said."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    name: str = Field(min_length=1, max_length=60)
    vendor: Vendor = "other"
    arch: str = ""
    cc: str = ""
    """NVIDIA's compute capability, such as `9.0`, or the architecture's name elsewhere."""
    memory_gb: float = Field(ge=1, le=4096)
    """As sold, which is closer to GiB than to GB."""
    memory_usable_gib: float | None = Field(default=None, ge=0.5, le=4096)
    """Of it what programs see."""
    bandwidth_gb_s: float = Field(ge=5, le=100_000)
    """Of its memory, 1e9 bytes per second, nominal."""
    bandwidth_share: float | None = Field(default=None, gt=0.05, le=1)
    """Of it what was measured, where that is far from the usual."""
    fp16_tflops: _Rate = None
    """Dense, with 32-bit accumulation, 1e12 operations per second; of bf16 alike where there is."""
    fp8_tflops: _Rate = None
    int8_tops: _Rate = None
    int4_tops: _Rate = None
    fp4_tflops: _Rate = None
    tdp_w: float | None = Field(default=None, gt=1, le=10_000)
    """Watts at most."""
    link_gb_s: float | None = Field(default=None, gt=0.1, le=10_000)
    """To a neighbour, one way, 1e9 bytes per second."""
    launch_usd: _Usd = None
    """Price when it was launched, or the user's own; street prices differ."""
    usd_per_hour_low: _Usd = None
    usd_per_hour_high: _Usd = None
    """Range over providers of what it costs to rent."""
    price_date: str | None = Field(default=None, max_length=20)
    """When the rents were looked up."""
    verified: _Figures = ()
    derived: _Figures = ()
    source: str = Field(min_length=3, max_length=600)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        usable, low, high = self.memory_usable_gib, self.usd_per_hour_low, self.usd_per_hour_high
        if usable is not None and usable > self.memory_gb:
            raise ValueError(f"memory_usable_gib {usable:g} is more than memory_gb")
        if (low is None) != (high is None):
            raise ValueError("give usd_per_hour_low and usd_per_hour_high, or neither")
        if low is not None and high is not None:
            if low > high:
                raise ValueError(f"usd_per_hour_low {low:g} is above usd_per_hour_high {high:g}")
            if not self.price_date:
                raise ValueError("usd_per_hour_low without price_date: say when it was looked up")
        return self

    @property
    def usable_bytes(self) -> int:
        """Memory that programs can have."""
        if self.memory_usable_gib is not None:
            return int(self.memory_usable_gib * GIB)
        return int(self.memory_gb * GIB * (_UNIFIED if self.vendor == "apple" else _USABLE))

    def known(self, figure: Figure) -> Literal["verified", "derived", "unverified"]:
        """How well a figure is known."""
        if figure in self.verified:
            return "verified"
        return "derived" if figure in self.derived else "unverified"


@cache
def shipped() -> tuple[Accelerator, ...]:
    """The devices that come with the package."""
    text = files("paredown.hardware").joinpath(SHIPPED).read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(Accelerator.model_validate({k: v for k, v in r.items() if v}) for r in rows)


def catalogue(path: Path | None = None) -> tuple[Accelerator, ...]:
    """The shipped devices and those of a user's file, whose figures win.

    Raises:
        ConfigError: the file's line and column, what is wrong there, and what belongs there.
    """
    own = () if path is None else read_catalogue(path)
    names = {device.name.lower() for device in own}
    return (*own, *(d for d in shipped() if d.name.lower() not in names))


def read_catalogue(path: Path) -> tuple[Accelerator, ...]:
    """The devices of a YAML file.

    Raises:
        ConfigError: as `catalogue`.
    """
    value = read_yaml(path)  # guards against what is no document; the nodes below have the places
    found = value.get("devices") if isinstance(value, dict) else None
    if not isinstance(found, list) or not found:
        raise ConfigError(f"{path}: line 1, column 1: it must hold `devices:` with a list of them")
    places = _places(path)
    devices = []
    for number, item in enumerate(found):
        try:
            devices.append(Accelerator.model_validate(item))
        except ValidationError as error:
            raise _refusal(path, places, number, item, error) from None
    return tuple(devices)


def _refusal(
    path: Path,
    places: dict[tuple[int, str], tuple[int, int]],
    number: int,
    item: object,
    error: ValidationError,
) -> ConfigError:
    """One line on the first thing that is wrong with a device."""
    first = error.errors()[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    line, column = places.get((number, field)) or places.get((number, "")) or (1, 1)
    name = item.get("name") if isinstance(item, dict) else None
    what = f"device {str(name)[:60]!r}" if name else f"device {number + 1}"
    if first["type"] == "extra_forbidden":
        said = f"no figure {field!r}; {did_you_mean(field, Accelerator.model_fields)}"
    elif first["type"] == "missing":
        said = f"{field} is missing"
    else:
        seen = f" {str(first['input'])[:40]!r}" if field else ""
        said = f"{field}{seen}: {first['msg']}".removeprefix(": ")
    return ConfigError(f"{path}: line {line}, column {column}: {what}: {said}")


def _places(path: Path) -> dict[tuple[int, str], tuple[int, int]]:
    """Line and column of every figure, by number of the device and name; "" is the device."""
    import yaml

    root = yaml.compose(read_text(path), Loader=yaml.SafeLoader)
    places: dict[tuple[int, str], tuple[int, int]] = {}
    for key, listed in getattr(root, "value", ()):
        if key.value != "devices":
            continue
        for number, node in enumerate(listed.value):
            places[number, ""] = _place(node)
            for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
                places[number, str(name.value)] = _place(value)
    return places


def _place(node: Any) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def find_devices(names: Iterable[str], known: Iterable[Accelerator]) -> tuple[Accelerator, ...]:
    """The devices that a user names; a part of a name takes all that have it.

    Raises:
        ConfigError: none is so called; the nearest names.
    """
    known = tuple(known)
    found: dict[str, Accelerator] = {}
    for name in names:
        wanted = _plain(name)
        exact = [d for d in known if _plain(d.name) == wanted]
        part = exact or [d for d in known if set(wanted.split()) <= set(_plain(d.name).split())]
        if not part:
            near = {_plain(d.name): d.name for d in known}
            hint = did_you_mean(wanted, near)
            for plain, written in sorted(near.items(), key=lambda pair: -len(pair[0])):
                hint = hint.replace(repr(plain), repr(written))
            if hint.startswith("known"):
                hint = "paredown match --devices lists them"
            raise ConfigError(f"--gpu {name[:60]!r}: no device is so called; {hint}")
        found |= {d.name: d for d in part}
    return tuple(found.values())


def _plain(name: str) -> str:
    """`RTX-4090` and `rtx 4090` alike."""
    return " ".join(name.lower().replace("-", " ").replace("_", " ").split())
