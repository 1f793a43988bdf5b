"""How much disk a trial needs, reckoned from specs, and whether it is there. No torch here."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from paredown.blocks.moments import PASS_SHARE
from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.spec.model import ModelSpec
from paredown.spec.strategy import Strategy
from paredown.spec.units import GB, human_bytes
from paredown.store.cache import Cache


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes of disk that a trial needs at its peak.

    Attributes:
        output: beside the artifact: itself, and what methods lay down while they work.
        cache: what it puts there and still counts on, which is never evicted under it.
    """

    output: int
    cache: int

    def __or__(self, other: Need) -> Need:
        """What is enough for either."""
        return Need(output=max(self.output, other.output), cache=max(self.cache, other.cache))


def need_of(strategy: Strategy, spec: ModelSpec, cache: Cache) -> Need:
    """What running a strategy on a model needs.

    The result of every step but the last is kept in the cache for strategies that start alike, and
    so is what methods measure; results are folders of the bytes that the steps predict.
    """
    output, kept = 0, 0
    steps = registry.resolve(strategy)
    for number, (method, params) in enumerate(steps, 1):
        scratch, measured = method.disk(spec, params, cache)
        spec = method.predict(spec, params)
        output = max(output, spec.weight_bytes + scratch)
        kept += measured + (spec.weight_bytes if number < len(steps) else 0)
    return Need(output=output, cache=kept)


@dataclass(frozen=True, kw_only=True)
class Disk:
    """What the largest of some trials needs, and what is free where artifacts go; bytes."""

    nbytes: int
    free: int


def need_for(strategies: Iterable[Strategy], spec: ModelSpec, out: Path) -> Disk:
    """What the largest of these trials takes, artifact and cache together."""
    cache = Cache.default()
    needs = [need_of(strategy, spec, cache) for strategy in strategies]
    largest = max((need.output + need.cache for need in needs), default=0)
    return Disk(nbytes=largest, free=shutil.disk_usage(_existing(out)).free)


def cache_note(strategies: Iterable[Strategy], spec: ModelSpec) -> str:
    """What a user should know of a model whose passes over text do not fit into the cache.

    Args:
        strategies: that may be run.
        spec: of the model they start from.

    Returns:
        What is computed again in every trial, and the size of a cache that would keep it; empty
        where all is kept.
    """
    cache, all_of_it = Cache.default(), 0
    for strategy in strategies:
        # The same cache without a limit: what a trial would keep if it could.
        unlimited = need_of(strategy, spec, Cache(cache.folder, float("inf"))).cache
        if unlimited > need_of(strategy, spec, cache).cache:
            all_of_it = max(all_of_it, unlimited)
    if not all_of_it:
        return ""
    enough = math.ceil(all_of_it / PASS_SHARE / GB)
    return (
        f"what a pass of this model over calibration text leaves ({human_bytes(all_of_it)}) does "
        f"not fit into the cache ({human_bytes(int(cache.limit_bytes))}), and is computed again in "
        f"every trial that needs it; PAREDOWN_CACHE_GB={enough} keeps it, where the disk has room"
    )


def require_disk(
    strategies: Iterable[Strategy], spec: ModelSpec, out: Path, *, at_once: int = 1
) -> None:
    """See that the largest trial finds the disk it needs, before the first one starts.

    Args:
        strategies: that may be run.
        spec: of the model they start from.
        out: folder of the artifacts, or where it will be.
        at_once: trials that run side by side.

    Raises:
        ConfigError: a disk is too full; says how much is needed, where, and what for.
    """
    cache = Cache.default()
    need = Need(output=0, cache=0)
    for strategy in strategies:
        need |= need_of(strategy, spec, cache)
    wanted = [
        (_existing(out), need.output * at_once, "artifacts while they are made"),
        # Once: what is measured of the model that all trials start from is shared by them.
        (_existing(cache.folder), need.cache, "the cache (PAREDOWN_HOME)"),
    ]
    by_disk: dict[int, list[tuple[Path, int, str]]] = {}
    for place in wanted:  # what lies on one disk has to fit there together
        by_disk.setdefault(place[0].stat().st_dev, []).append(place)
    for places in by_disk.values():
        total = sum(nbytes for _, nbytes, _ in places)
        free = shutil.disk_usage(places[0][0]).free
        if total > free:
            parts = " and ".join(f"{human_bytes(n)} for {what}" for _, n, what in places if n)
            raise ConfigError(
                f"the disk of {places[0][0]} has {human_bytes(free)} left, and a trial needs "
                f"{parts}; free some space, choose another folder with --output-dir or "
                "PAREDOWN_HOME, or lower PAREDOWN_CACHE_GB"
            )


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path
