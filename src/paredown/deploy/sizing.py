"""How many tokens, requests and threads a server gets, from the memory that it may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paredown.deploy.package import ServingSettings
from paredown.errors import ConfigError
from paredown.hardware.detect import Machine
from paredown.hardware.engines import ENGINES
from paredown.spec.cache import Caches, find_caches
from paredown.spec.model import ModelSpec
from paredown.spec.units import human_bytes

CACHES: dict[str, float] = {
    "f16": 2.0, "f32": 4.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_0": 22 / 32, "q4_0": 18 / 32,
    "fp8": 1.0,
}  # fmt: skip
"""Bytes of an element of keys and values, scales of blocks included."""
CONTEXT = 4096
"""Tokens of a request where the user and the memory say nothing else."""
SLOTS = 4
"""Requests at once, likewise."""
LEAST_CONTEXT = 512
"""Below it slots are given up before tokens."""
_BATCH = 512
"""Tokens that an engine reads at a time."""
_FIXED = 200e6
"""Bytes of a server beside weights and cache: code, tokenizer, buffers that hardly vary."""
_SHARE = 0.8
"""Of the machine's memory, where the user gives no limit."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user said of serving; None: to be derived."""

    host: str = "127.0.0.1"
    port: int = 8080
    context: int | None = None
    slots: int | None = None
    threads: int | None = None
    cache: str | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Need:
    """What serving takes, in bytes.

    Attributes:
        alone: of the model and of what every server holds.
        caches: of its layers.
        element: bytes of a number in the cache.
        windows: whether a sliding layer keeps its window only.
    """

    alone: float
    caches: Caches
    element: float
    windows: bool

    def cache(self, context: int) -> float:
        """Of one slot."""
        return self.caches.nbytes(context, number_bytes=self.element, windows=self.windows)

    def of(self, context: int, slots: int) -> float:
        """Of all slots and the model."""
        return self.alone + slots * self.cache(context)

    def most_context(self, memory: float, slots: int) -> int:
        """Tokens of each slot that the memory allows; at least 0."""
        low, high = 0, 1 << 24
        while high - low > 1:  # with windows it is no straight line
            middle = (low + high) // 2
            low, high = (middle, high) if self.of(middle, slots) <= memory else (low, middle)
        return low


def size(
    spec: ModelSpec,
    nbytes: int,
    wishes: Wishes,
    machine: Machine,
    *,
    name: str,
    context: int | None,
    runtime: str = "llama.cpp",
    caches: Sequence[str] = tuple(CACHES),
) -> ServingSettings:
    """The settings of a server: as the user wishes, the rest as large as the memory allows.

    Needed are the weights, `slots * context` tokens of keys and values, logits of a batch, and what
    every server takes. Slots are given up first, down to one, then tokens.

    Args:
        spec: of the artifact.
        nbytes: of the engine's weights files.
        name: under which the model is listed.
        context: tokens that the model takes; None: not known.
        runtime: that serves it, for what it keeps of sliding layers.
        caches: how the engine may store keys and values; the usual way first.

    Raises:
        ConfigError: a wish is out of range, or it does not fit; says what would.
    """
    _check(wishes, context, caches)
    need = _need(spec, nbytes, wishes.cache or caches[0], runtime)
    memory = wishes.memory_bytes or int(_SHARE * machine.memory_bytes)
    tokens = wishes.context or min(context or CONTEXT, CONTEXT)
    slots = wishes.slots or SLOTS
    while need.of(tokens, slots) > memory:
        if wishes.slots is None and slots > 1 and (tokens <= LEAST_CONTEXT or slots > 2):
            slots -= 1
        elif wishes.context is None and tokens // 2 >= LEAST_CONTEXT:
            tokens //= 2
        elif wishes.slots is None and slots > 1:
            slots -= 1
        else:
            raise _too_little(need, memory, tokens, slots)
    threads = wishes.threads or machine.physical_cores
    given = f"{human_bytes(memory)}, " + (
        "as given" if wishes.memory_bytes else f"{_SHARE:.0%} of this machine's memory"
    )
    return ServingSettings(
        name=name, host=wishes.host, port=wishes.port, context=tokens, slots=slots, threads=threads,
        cache=wishes.cache, memory_bytes=memory,
        derived=(
            f"memory: {given}",
            f"needed: {_words(need, tokens, slots)}",
            f"context: {tokens} of the model's {context or 'unknown'} tokens",
            f"threads: {threads}, " + ("as given" if wishes.threads else "a physical core each"),
        ),
    )  # fmt: skip


def _need(spec: ModelSpec, nbytes: int, cache: str, runtime: str) -> _Need:
    engine = ENGINES.get(runtime)
    windows = engine is not None and engine.windows
    caches, element = find_caches(spec), CACHES[cache]
    # Behind the window there is room for the tokens that are read at a time.
    read = caches.nbytes(_BATCH, number_bytes=element) if windows else 0.0
    logits = 4.0 * _BATCH * (spec.vocabulary or 0)
    has_window = any(layer.window is not None for layer in caches.layers)
    return _Need(
        alone=nbytes + logits + _FIXED + (read if has_window else 0.0), caches=caches,
        element=element, windows=windows,
    )  # fmt: skip


def _check(wishes: Wishes, context: int | None, caches: Sequence[str]) -> None:
    if wishes.cache is not None and wishes.cache not in caches:
        raise ConfigError(f"--cache {wishes.cache!r}: give one of {', '.join(caches)}")
    numbers = {"--context": wishes.context, "--slots": wishes.slots, "--threads": wishes.threads}
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ConfigError(f"{name} {number}: give at least 1")
    if not 1 <= wishes.port <= 65535:
        raise ConfigError(f"--port {wishes.port}: give 1 to 65535")
    if wishes.context is not None and context is not None and wishes.context > context:
        raise ConfigError(
            f"--context {wishes.context}: the model takes {context} tokens; give at most that"
        )


def _words(need: _Need, tokens: int, slots: int) -> str:
    return (
        f"{human_bytes(need.of(tokens, slots))} = {human_bytes(need.alone)} (weights and buffers) "
        f"+ {slots} slots x {human_bytes(need.cache(tokens))} ({tokens} tokens"
        + (f"; its cache is not known: {need.caches.unknown})" if need.caches.unknown else ")")
    )


def _too_little(need: _Need, memory: int, tokens: int, slots: int) -> ConfigError:
    left = memory - need.alone
    if left <= 0:
        mend = (
            f"the model alone needs {human_bytes(need.alone)}; give more memory, or compress more"
        )
    else:
        fits = need.most_context(memory, slots)
        mend = f"{fits} tokens for each of {slots} would fit: --context {fits}, or --cache q8_0"
    return ConfigError(
        f"serving needs {_words(need, tokens, slots)}, of {human_bytes(memory)}: {mend}"
    )
