"""What serving a model takes of each device: weights, cache, activations, logits, runtime.

Weights and cache follow from counts by what the engine does with them (`engines`), and are exact;
the rest is estimated, and its error is part of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from paredown.errors import ConfigError
from paredown.hardware.engines import Habits, OnProcessor
from paredown.hardware.estimate import Estimate, added
from paredown.spec.cache import find_caches
from paredown.spec.model import ModelSpec
from paredown.spec.weights import Piece

NUMBER_BYTES = 2
"""Of an activation: bf16 or fp16."""
COLLECTIVES_MB = 400.0
"""Buffers of NCCL and its like where several devices work together, as aiconfigurator has them."""
ACTIVATION_ERROR, RUNTIME_ERROR, MEASURED_ERROR = 1.5, 1.3, 1.1
"""Factors within which the estimated parts are expected; the last where the process without a model
was measured here. See docs/sizing.md."""


@final
@dataclass(frozen=True, kw_only=True)
class Version:
    """A model as it would be served: as stored, at a precision, or after a strategy.

    Attributes:
        name: for people: `bf16`, `int4`, a folder, a strategy.
        spec: with the shapes that this version has.
        pieces: its weights by part.
    """

    name: str
    spec: ModelSpec
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        """Of its files."""
        return sum(piece.nbytes for piece in self.pieces)

    @property
    def rate(self) -> str:
        """At which rate its matrices are multiplied: `int8` and `fp8` where inputs are rounded as
        well, else `16`: codes of weights alone shrink what is read, not what is computed."""
        blocks = [p for p in self.pieces if p.part in {"blocks", "experts"}]
        largest = max(blocks, key=lambda p: p.numel, default=None)
        if largest is None or largest.activations is None or largest.activations > 8:
            return "16"
        return "fp8" if largest.is_float else "int8"


@final
@dataclass(frozen=True, kw_only=True)
class Work:
    """What is asked of a served model at once.

    Attributes:
        batch: sequences side by side.
        context: tokens of each at its end.
        prompt: of these, tokens that are read before the first one is written.
    """

    batch: int
    context: int
    prompt: int


@final
@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a model lies on devices.

    Attributes:
        tensor: devices that share every matrix (tensor parallelism).
        stages: groups of devices, each with some of the layers (pipeline parallelism).
    """

    tensor: int = 1
    stages: int = 1

    @property
    def devices(self) -> int:
        """How many it takes."""
        return self.tensor * self.stages


NOTHING = Estimate.exact(0.0)
ALONE = Layout()
"""One device."""


@final
@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on the fullest device, by what they are for. Cache None: unknown, with the reason."""

    weights: Estimate
    cache: Estimate | None
    activations: Estimate
    logits: Estimate
    runtime: Estimate
    loading: Estimate = NOTHING
    unknown: str = ""

    @property
    def total(self) -> Estimate | None:
        """All of it; activations of a block, logits and what is held while loading are not alive
        together, the largest counts. None where a part is unknown."""
        if self.cache is None:
            return None
        return added((self.weights, self.cache, self._working, self.runtime))

    @property
    def known(self) -> Estimate:
        """What is known of it: everything but an unknown cache; a lower bound then."""
        return added((self.weights, self._working, self.runtime))

    @property
    def _working(self) -> Estimate:
        return max(self.activations, self.logits, self.loading, key=lambda part: part.value)


def serving_memory(
    version: Version,
    work: Work,
    engine: Habits,
    layout: Layout = ALONE,
    *,
    on_gpu: bool = True,
    process_bytes: float | None = None,
) -> Memory:
    """Memory of the fullest device of a layout.

    Args:
        engine: that serves it.
        on_gpu: False for a processor, where the process's own memory counts instead of a driver's.
        process_bytes: of the process before any weight, where it was measured here.
    """
    caches = find_caches(version.spec)
    more = None if on_gpu else engine.processor
    cache = None
    if not caches.unknown:
        share = stage_share(version.spec, layout)
        tokens = work.context + (0 if more is None else more.spare)
        one = caches.nbytes(
            tokens, number_bytes=engine.cache_bytes, windows=engine.windows,
            devices=layout.tensor,
        )  # fmt: skip
        cache = Estimate.exact(share * work.batch * one)
    at_once = work.batch * work.prompt
    if engine.chunk is not None:
        at_once = min(at_once, max(engine.chunk, work.batch))
    fixed, fixed_error = process_bytes, MEASURED_ERROR
    if fixed is None:
        fixed_error = RUNTIME_ERROR
        fixed = 1e6 * (engine.context_mb if on_gpu else engine.process_mb)
    fixed += engine.token_bytes * (version.spec.vocabulary or 0)
    if layout.devices > 1:
        fixed += 1e6 * COLLECTIVES_MB
    rows = at_once if engine.prompt_logits else work.batch
    logits = rows * (version.spec.vocabulary or 0) * (NUMBER_BYTES if engine.prompt_logits else 4)
    if more is not None:
        logits = int(rows * (version.spec.vocabulary or 0) * 4 * more.logits)
    block = at_once * numbers_per_token(version.spec, layout.tensor) * NUMBER_BYTES
    copies = 0.0 if on_gpu else sum(
        p.numel * engine.copied.get(p.bits, 0.0) / 8
        for p in version.pieces if p.bits is not None and not p.is_float
    )  # fmt: skip
    weights = Estimate.exact(resident_bytes(version, engine, layout) + copies)
    if more is not None:
        weights = Estimate.within(_on_processor(version, engine, more), MEASURED_ERROR)
    embedding = sum(p.numel for p in version.pieces if p.part == "embedding" and p.bits is None)
    return Memory(
        weights=weights,
        cache=cache,
        activations=Estimate.within(block, ACTIVATION_ERROR),
        logits=Estimate.within(logits, ACTIVATION_ERROR),
        runtime=Estimate.within(fixed, fixed_error),
        loading=Estimate.within(embedding * (more.loading if more else 0.0), MEASURED_ERROR),
        unknown=caches.unknown,
    )


def _on_processor(version: Version, engine: Habits, more: OnProcessor) -> float:
    """Bytes of the weights on a processor, where the engine holds more than what is stored."""
    tied = version.spec.tied_embeddings
    found = 1e6 * more.layer_mb * (version.spec.layers or 1)
    for piece in version.pieces:
        own = more.resident(piece, is_tied=tied)
        found += more.packed * engine.resident(piece) if own is None else own
    return found


def resident_bytes(version: Version, engine: Habits, layout: Layout) -> float:
    """Bytes of the weights on the fullest device.

    Blocks are cut over devices and spread over stages; embedding and head, cut too, lie on the
    first and the last stage; a vision tower lies on every device of the first.
    """
    parts = dict.fromkeys(("blocks", "experts", "embedding", "head", "vision"), 0.0)
    for piece in version.pieces:
        parts[piece.part] += engine.resident(piece)
    blocks = (parts["blocks"] + parts["experts"]) * stage_share(version.spec, layout)
    tied = version.spec.tied_embeddings
    if layout.stages == 1:
        ends = parts["embedding"] + parts["head"]
    else:
        ends = max(parts["embedding"], parts["embedding"] if tied else parts["head"])
    return (blocks + ends) / layout.tensor + parts["vision"]


def stage_share(spec: ModelSpec, layout: Layout) -> float:
    """Share of the layers that the largest stage has."""
    layers = spec.layers or 1
    return -(-layers // layout.stages) / layers


def numbers_per_token(spec: ModelSpec, devices: int = 1) -> float:
    """Numbers alive at once for one token inside the widest part of a block.

    An MLP with a gate holds its input and the residual, gate, up and their product; attention the
    same two, and queries, keys, values and their mix. Of experts those that a token is sent to.
    """
    hidden = spec.hidden_size or 0
    width = (spec.intermediate_size or 4 * hidden) * (spec.experts_per_token or 1)
    heads = (spec.heads or 1) * (spec.head_dim or 0)
    keys = 2 * (spec.kv_heads or 0) * (spec.head_dim or 0)
    return 2 * hidden + max(3 * width, 2 * heads + keys) / devices


def refused_layout(spec: ModelSpec, layout: Layout) -> str:
    """Why a model cannot lie so; empty where it can."""
    tensor, heads = layout.tensor, spec.heads
    if layout.stages > (spec.layers or 1):
        return f"{spec.layers} layers do not fill {layout.stages} stages"
    if tensor == 1:
        return ""
    if heads is None or heads % tensor:
        return f"{heads or 'an unknown number of'} heads do not divide by {tensor}"
    kv = spec.kv_heads
    if kv is not None and kv % tensor and tensor % kv:
        return f"{kv} heads of keys and values do not divide by {tensor}"
    if spec.intermediate_size is not None and spec.intermediate_size % tensor:
        return f"MLPs of {spec.intermediate_size} do not divide by {tensor}"
    return ""


def check_context(spec: ModelSpec, context: int) -> None:
    """See that the model reads so many tokens.

    Raises:
        ConfigError: it does not.
    """
    if spec.context and context > spec.context:
        raise ConfigError(
            f"--context {context}: {spec.name} reads at most {spec.context} tokens; give at most "
            "that, or a model with a longer context"
        )
