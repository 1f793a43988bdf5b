"""How fast a model runs on a device: a roofline with the share of its peaks that is reached.

A token takes as long as reading the weights and caches that it needs, or as computing with them,
whichever is longer, and on top of that what every layer costs whatever its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from paredown.hardware.catalogue import Accelerator
from paredown.hardware.engines import Habits
from paredown.hardware.estimate import Estimate
from paredown.hardware.memory import ALONE, NUMBER_BYTES, Layout, Version, Work
from paredown.spec.cache import find_caches
from paredown.spec.weights import Piece

BANDWIDTH_SHARE = 0.8
"""Of the nominal bandwidth that decoding reaches on GPUs (aiconfigurator's constant)."""
LLAMA_CPP_SHARE = 0.65
"""The same in llama.cpp, whose kernels unpack as they read."""
COMPUTE_SHARE = 0.5
"""Of the dense peak that reading a prompt reaches; 0.4 to 0.7 is usual in published runs."""
HOP_S = 10e-6
"""Latency of one exchange between devices, seconds."""
CATALOGUE_ERROR, CALIBRATED_ERROR = 2.0, 1.5
"""Factors within which speeds are expected, from nominal figures and from figures measured here."""


@final
@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device reaches in an engine.

    Attributes:
        bandwidth: bytes per second with which floating-point weights and caches are read.
        packed: bytes per second of packed weights, by bits of a code; others as `bandwidth`.
        cache: bytes per second of keys and values; None: as `bandwidth`.
        compute: operations per second by rate (`16`, `int8`, `fp8`); None: unknown. `packed` where
            weights that only lie packed are multiplied at a rate of their own.
        few: operations per second with the few rows of a batch, of `dense` and of `packed` weights,
            where that differs; one row alone is a matter of bytes.
        layer_s, step_s: seconds per layer and per pass that no size explains.
        unpack: packed weights per second that are unpacked for a long prompt; None: on the way.
        link: bytes per second to a neighbour.
        error: factor within which times are expected.
    """

    bandwidth: float
    packed: Mapping[int, float] = field(default_factory=dict)
    cache: float | None = None
    compute: Mapping[str, float | None]
    few: Mapping[str, float] = field(default_factory=dict)
    layer_s: float
    step_s: float = 0.0
    unpack: float | None = None
    link: float = 25e9
    error: float


def nominal_rates(device: Accelerator, engine: Habits) -> Rates:
    """Rates from the catalogue's figures. Formats without a rate of their own run at 16 bits."""
    usual = LLAMA_CPP_SHARE if engine.name == "llama.cpp" else BANDWIDTH_SHARE
    share = device.bandwidth_share or usual
    sixteen = _peak(device.fp16_tflops)
    compute = {"16": sixteen}
    for rate, figure in (("int8", device.int8_tops), ("fp8", device.fp8_tflops)):
        compute[rate] = _peak(figure) or sixteen
    return Rates(
        bandwidth=1e9 * device.bandwidth_gb_s * share,
        compute=compute,
        layer_s=1e-6 * engine.layer_us,
        link=1e9 * (device.link_gb_s or 25.0),
        error=CATALOGUE_ERROR,
    )


def _peak(tera: float | None) -> float | None:
    return None if tera is None else 1e12 * tera * COMPUTE_SHARE


@final
@dataclass(frozen=True, kw_only=True)
class Step:
    """What one more token of every sequence takes, in seconds.

    Reading and computing go on at once, so the longer of them counts.
    """

    reading: float
    computing: float
    overhead: float
    error: float

    @property
    def seconds(self) -> Estimate:
        """All of it."""
        return Estimate.within(max(self.reading, self.computing) + self.overhead, self.error)

    @property
    def binds(self) -> str:
        """The limit that would have to give way for more speed."""
        parts = {"bandwidth": self.reading, "compute": self.computing, "overhead": self.overhead}
        return max(parts, key=parts.__getitem__)


def decode_step(
    version: Version, work: Work, engine: Habits, rates: Rates, layout: Layout = ALONE
) -> Step:
    """One step of decoding, at the end of the contexts of a batch."""
    spec, devices = version.spec, layout.tensor
    reading = sum(
        share * engine.resident(piece) / rates.packed.get(piece.bits or 0, rates.bandwidth)
        for piece, share in _read(version, work.batch)
    )
    kept = find_caches(spec).nbytes(work.context, number_bytes=engine.cache_bytes, devices=devices)
    computing = 0.0
    if (peak := rates.compute.get(version.rate)) is not None:
        few = rates.few if work.batch > 1 else {}
        computing = _attention(version, work.context) / peak
        for piece in version.pieces:
            is_packed = piece.bits is not None and not engine.unpacks
            rate = few.get("packed" if is_packed else "dense", peak)
            computing += 2 * _per_token(version, piece) / rate
    return Step(
        reading=reading / devices + work.batch * kept / (rates.cache or rates.bandwidth),
        computing=work.batch * computing / devices,
        overhead=_overhead(version, work.batch, rates, layout),
        error=rates.error,
    )


def prefill_s(
    version: Version,
    work: Work,
    engine: Habits,
    rates: Rates,
    layout: Layout = ALONE,
) -> Estimate | None:
    """Seconds to read the prompts of a batch; None where the device's peak is unknown.

    `2 x weights x tokens` operations, and `2 x queries x tokens^2` of causal attention a layer.
    """
    peak = rates.compute.get(version.rate)
    if not peak:
        return None
    tokens = work.batch * work.prompt
    packed = rates.compute.get("packed") or peak
    computing = tokens * _attention(version, work.prompt) / 2 / peak
    for piece in version.pieces:
        rows = tokens
        if _is_head(version, piece) and not engine.prompt_logits:
            rows = work.batch
        is_packed = piece.bits is not None and not engine.unpacks
        computing += 2 * rows * _per_token(version, piece) / (packed if is_packed else peak)
        if is_packed and rates.unpack is not None:
            computing += piece.numel / rates.unpack
    computing /= layout.tensor
    once = sum(engine.resident(p) for p in version.pieces if p.part != "vision")
    reading = once / rates.bandwidth / layout.tensor
    return Estimate.within(
        max(computing, reading) + _overhead(version, tokens, rates, layout), rates.error
    )


def _read(version: Version, batch: int) -> list[tuple[Piece, float]]:
    """Weights that one step reads, and which share of them.

    Of an embedding that is not the head a row a token; of experts those that any of the batch is
    sent to, `1 - (1 - k / n) ** batch` if all are equally likely.
    """
    found = []
    for piece in version.pieces:
        share = 1.0
        is_embedding = piece.part == "embedding" and not version.spec.tied_embeddings
        if piece.part == "vision" or is_embedding:
            share = 0.0
        elif piece.part == "experts":
            share = 1 - (1 - _routed(version)) ** batch
        found.append((piece, share))
    return found


def _routed(version: Version) -> float:
    """Share of the experts that one token is sent to."""
    experts, used = version.spec.experts, version.spec.experts_per_token
    return used / experts if experts and used else 1.0


def _is_head(version: Version, piece: Piece) -> bool:
    return piece.part == ("embedding" if version.spec.tied_embeddings else "head")


def _per_token(version: Version, piece: Piece) -> float:
    """Weights of a piece that a token is multiplied with."""
    if piece.part == "experts":
        return _routed(version) * piece.numel
    if piece.part == "vision" or (piece.part == "embedding" and not _is_head(version, piece)):
        return 0.0
    return piece.numel


def _attention(version: Version, context: int) -> float:
    """Operations of one token with the keys and values of `context` tokens, in all layers."""
    spec = version.spec
    width = (spec.heads or 0) * (spec.head_dim or 0)
    return sum(
        4.0 * group.layers * width * min(context, group.window or context)
        for group in find_caches(spec).layers
        if group.per_token
    )


def _overhead(version: Version, tokens: int, rates: Rates, layout: Layout) -> float:
    """What layers cost whatever their size, and what devices tell each other."""
    layers = version.spec.layers or 1
    spent = rates.step_s + layers * rates.layer_s
    hidden = version.spec.hidden_size or 0
    if layout.tensor > 1:  # two sums over all devices a layer, each a ring
        ring = 2 * (layout.tensor - 1) / layout.tensor
        spent += 2 * layers * (HOP_S + tokens * hidden * NUMBER_BYTES * ring / rates.link)
    if layout.stages > 1:
        spent += (layout.stages - 1) * (HOP_S + tokens * hidden * NUMBER_BYTES / rates.link)
    return spent
