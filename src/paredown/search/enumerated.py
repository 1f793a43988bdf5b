"""The space that is listed: every strategy worth trying, in the order in which a grid tries them.

Nothing here loads a weight. What cannot run on this model, or is known from its predicted size to
break a limit, is left out before the search begins, each with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise, permutations, zip_longest
from random import Random
from typing import ClassVar, Self, final

from paredown.errors import ConfigError, MissingExtraError, StrategyError, did_you_mean
from paredown.methods import registry
from paredown.methods.base import AnyMethod
from paredown.search.aim import PLANNER, aims
from paredown.search.index import STAGES, Genome, Index
from paredown.search.space import Rules, Space
from paredown.spec.domain import Choice, Scalar, domains
from paredown.spec.model import ModelSpec
from paredown.spec.scheme import GridKind
from paredown.spec.strategy import Step, Strategy
from paredown.spec.target import Target
from paredown.spec.units import GB, bytes_text, human_bytes

MAX_SINGLE = 512
"""Most strategies of one method alone, nearest to its default first."""
MAX_PIPELINE = 64
"""Most strategies of one sequence of methods."""
MAX_PIPELINES = 1000
"""Most pipelines of one length, over all sequences of methods."""
PIPELINE_VALUES = 2
"""Values of each domain, from the first, that pipelines combine."""

Template = tuple[str, ...]
"""Names of the methods of a strategy, in order."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Enumerated(Space):
    """A space that holds what it lists and nothing else.

    Attributes:
        by_hash: strategies (canonical) by their hash, most promising first.
        sizes: bytes of the weights after the strategy, by its hash.
        refused, baseline_bytes: see `Space`.
    """

    is_listed: ClassVar[bool] = True
    by_hash: dict[str, Strategy]
    sizes: dict[str, int]
    refused: dict[str, str]
    baseline_bytes: int

    @classmethod
    def build(
        cls,
        spec: ModelSpec,
        target: Target,
        *,
        methods: tuple[str, ...] | None = None,
        max_steps: int = 2,
        baseline_bytes: int | None = None,
    ) -> Self:
        """Enumerate, check, and order.

        First come single methods in turns: the default of each (the first value of every search
        domain), then of each the strategy next nearest to it, where a step away is one place in
        the order of a domain. Of one method at most `MAX_SINGLE` are taken. Then come pipelines of
        two methods, then of three, in turns likewise: pruning, then tuning, then quantization, no
        kind twice (so there are none of four). Pipelines combine only the first `PIPELINE_VALUES`
        values of each domain, at most `MAX_PIPELINE` per sequence of methods and `MAX_PIPELINES`
        per length: the fine choices can be read off the single methods. Plans stay empty.

        Args:
            spec: the model.
            target: where it will run, and the user's limits.
            methods: restrict to these, and take them in this order; None means all known ones.
            max_steps: longest pipeline.
            baseline_bytes: bytes of the baseline's weights; None takes them from `spec`.

        Raises:
            StrategyError: a name in `methods` is unknown, or cannot run on this model at all.
            MissingExtraError: a method named in `methods` needs a library that is missing.
            ConfigError: no strategy is possible, or none can meet a limit; names the nearest.
        """
        rules = Rules(spec, target, baseline_bytes=baseline_bytes)
        return cls.under(rules, methods=methods, max_steps=max_steps)

    @classmethod
    def under(cls, rules: Rules, *, methods: tuple[str, ...] | None, max_steps: int) -> Self:
        """`build`, by rules that others go on using."""
        refused: dict[str, str] = {}
        usable = _usable(methods, refused)
        possible: dict[str, Strategy] = {}
        too_large: dict[str, str] = {}
        aimed = aims(rules.target.limits, rules.spec) if PLANNER in usable else ()
        first = (aim.strategy for aim in aimed if aim.is_first)
        later = (aim.strategy for aim in aimed if not aim.is_first)
        for raw in (*first, *_enumerate(usable, max_steps, rules.grids), *later):
            try:
                strategy = registry.for_runtime(raw, rules.target.runtime)
            except StrategyError as error:  # a parameter without default and search domain
                refused[str(raw)] = str(error)
                continue
            try:
                broken = rules.broken_limit(strategy)
            except ConfigError as error:
                refused[registry.label(strategy)] = str(error)
                continue
            possible[strategy.hash] = strategy
            if broken is not None:
                too_large[strategy.hash] = broken
        # What cannot run is told before what is too large: only the former is a reason against a
        # method that the user named.
        _require_some(methods, possible, refused)
        if len(too_large) == len(possible):
            raise ConfigError(_unreachable(possible, rules))
        _require_smaller(possible, rules)
        left_out = dict(too_large)
        if rules.has_own_types:
            left_out |= _no_smaller(possible, rules)
        labels = {registry.label(possible[key]): reason for key, reason in left_out.items()}
        kept = {key: s for key, s in possible.items() if key not in left_out}
        return cls(
            by_hash=kept,
            sizes={key: rules.predicted_bytes(s) for key, s in kept.items()},
            refused=refused | labels,
            baseline_bytes=rules.baseline_bytes,
        )

    @cached_property
    def strategies(self) -> tuple[Strategy, ...]:
        """All of them, most promising first."""
        return tuple(self.by_hash.values())

    @cached_property
    def index(self) -> Index:
        """Distances, methods and values."""
        return Index.of(self.strategies)

    def __contains__(self, strategy: Strategy) -> bool:
        return strategy.hash in self.by_hash

    def refusal(self, strategy: Strategy) -> str | None:
        if strategy in self:
            return None
        return self.refused.get(registry.label(strategy), "it is not among what is searched")

    def predicted_bytes(self, strategy: Strategy) -> int:
        return self.sizes[strategy.hash]

    def sample(self, rng: Random) -> Strategy:
        return rng.choice(self.strategies)

    def nearest(self, wanted: Genome, may: Callable[[Strategy], bool]) -> Strategy | None:
        return self.index.nearest(wanted, may)

    def without(self, methods: Collection[str]) -> Self:
        kept = {key: s for key, s in self.by_hash.items()
                if not any(step.method in methods for step in s.steps)}  # fmt: skip
        return type(self)(
            by_hash=kept,
            sizes={key: self.sizes[key] for key in kept},
            refused=self.refused,
            baseline_bytes=self.baseline_bytes,
        )


@dataclass(frozen=True, order=True)
class _Grid:
    """How fine the grid of a strategy is; the finer of two loses less."""

    bits: int
    fineness: float
    """1 / group size; 0 for a group per row."""

    def is_finer(self, other: _Grid) -> bool:
        return self != other and self.bits >= other.bits and self.fineness >= other.fineness


def _no_smaller(possible: dict[str, Strategy], rules: Rules) -> dict[str, str]:
    """Why strategies are left out, by their hash: a finer grid takes no more in the files.

    An engine may store 3 bits in the place of 4, and a scale for every 32 weights whatever the
    groups are; a trial of the coarser grid could only lose.
    """
    alike: dict[str, list[tuple[_Grid, str]]] = {}
    for key, strategy in possible.items():
        split = _grid_apart(strategy)
        if split is not None:
            grid, rest = split
            alike.setdefault(rest, []).append((grid, key))
    found = {}
    for same in alike.values():
        for grid, key in same:
            size = rules.predicted_bytes(possible[key])
            finer = [
                other
                for other, name in same
                if other.is_finer(grid) and rules.predicted_bytes(possible[name]) <= size
            ]
            if finer:
                best = max(finer)
                group = f"groups of {1 / best.fineness:g}" if best.fineness else "a group per row"
                found[key] = (
                    f"in {rules.target.runtime} it takes as much as {best.bits} bits in {group}, "
                    "which lose less"
                )
    return found


def _grid_apart(strategy: Strategy) -> tuple[_Grid, str] | None:
    """The grid of the step that has one, and a hash of everything else; None without a grid."""
    gridded = [i for i, s in enumerate(strategy.steps) if {"bits", "group_size"} <= set(s.params)]
    if len(gridded) != 1:
        return None
    step = strategy.steps[gridded[0]]
    bits, group = step.params["bits"], step.params["group_size"]
    rest = {k: v for k, v in step.params.items() if k not in {"bits", "group_size"}}
    steps = list(strategy.steps)
    steps[gridded[0]] = step.model_copy(update={"params": rest})
    grid = _Grid(bits=bits, fineness=1 / group if group > 0 else 0.0)
    return grid, strategy.model_copy(update={"steps": tuple(steps)}).hash


def _require_smaller(possible: dict[str, Strategy], rules: Rules) -> None:
    """Refuse files as large as they are already: nothing would have to be done.

    Raises:
        ConfigError: with the interval of sizes that can be asked for.
    """
    files, own = rules.most_files, rules.base_files
    if files is None or files < own:
        return
    least = min(map(rules.files_bytes, possible.values()))
    raise ConfigError(
        f"size {bytes_text(files)}: the model takes {human_bytes(own)} as it is, so nothing has to "
        f"be made smaller; give less, down to {bytes_text(least)}"
    )


def _unreachable(possible: dict[str, Strategy], rules: Rules) -> str:
    """The message for limits that no strategy meets; its numbers, as limits, can be met."""
    smallest = min(possible.values(), key=rules.predicted_bytes)
    name, limits = registry.label(smallest), rules.target.limits
    size = rules.predicted_bytes(smallest)
    ratio = rules.baseline_bytes / size
    files, smallest_files = rules.most_files, rules.files_bytes(smallest)
    if files is not None and smallest_files > files:
        return (
            f"size {bytes_text(files)}: no strategy makes it so small; between "
            f"{bytes_text(smallest_files)} "
            f"({name}) and {bytes_text(rules.base_files)} (as it is) can be had; raise the limit "
            "or allow more methods or steps"
        )
    if limits.target_ratio is not None and ratio < limits.target_ratio:
        return (
            f"target_ratio: no strategy reaches {limits.target_ratio:g}x; the smallest is "
            f"{name} at {math.floor(ratio * 100) / 100:g}x; lower the limit or allow more "
            "methods or steps"
        )
    return (
        f"max_memory_gb: no strategy fits into {limits.max_memory_gb:g} GB; the smallest is "
        f"{name}, whose weights alone take {_round_up(size / GB):g} GB; raise the limit or "
        "allow more methods or steps"
    )


def _round_up(value: float) -> float:
    """To three significant digits, never below `value`."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.ceil(value / unit) * unit


def _usable(methods: tuple[str, ...] | None, refused: dict[str, str]) -> dict[str, AnyMethod]:
    """Methods to combine, by name. One whose library is missing is refused, or, if asked for by
    name, raised."""
    known = registry.names()
    for name in methods or ():
        if name not in known:
            raise StrategyError(f"methods: {name!r} is unknown; {did_you_mean(name, known)}")
    usable: dict[str, AnyMethod] = {}
    for name in known if methods is None else methods:
        method = registry.load(name)
        try:
            registry.require_extra(method)
        except MissingExtraError as error:
            if methods is not None:
                raise
            refused[name] = str(error)
        else:
            usable[name] = method
    return usable


def _enumerate(
    usable: dict[str, AnyMethod], max_steps: int, grids: Collection[GridKind]
) -> Iterator[Strategy]:
    """Strategies in the order of the space; parameters outside the search domains are left out.

    Args:
        grids: kinds of integer grids that are tried.
    """
    for length in range(1, min(max_steps, len(STAGES)) + 1):
        templates = _templates(usable, length)
        turns = in_turns([_of_template(template, usable, grids) for template in templates])
        yield from turns if length == 1 else islice(turns, MAX_PIPELINES)


def _templates(usable: dict[str, AnyMethod], length: int) -> list[Template]:
    """Sequences of methods, each later in the order of kinds than the one before."""
    stage = {name: STAGES[method.kind] for name, method in usable.items()}
    return [
        names
        for names in permutations(usable, length)
        if all(stage[first] < stage[second] for first, second in pairwise(names))
    ]


def _of_template(
    template: Template, usable: dict[str, AnyMethod], grids: Collection[GridKind]
) -> Iterator[Strategy]:
    """Strategies of one sequence of methods, nearest to the defaults first."""
    single = len(template) == 1
    axes: list[tuple[int, str, tuple[Scalar, ...]]] = [
        (place, field, _tried(choice, grids)[: None if single else PIPELINE_VALUES])
        for place, name in enumerate(template)
        for field, choice in domains(usable[name].params_type).items()
    ]
    ranks = _by_distance([len(values) for _, _, values in axes])
    for rank in islice(ranks, MAX_SINGLE if single else MAX_PIPELINE):
        params: list[dict[str, Scalar]] = [{} for _ in template]
        for (place, field, values), index in zip(axes, rank, strict=True):
            params[place][field] = values[index]
        steps = []
        for name, given in zip(template, params, strict=True):
            proposed = usable[name].params_type.proposed(given)
            if proposed is not None:
                steps.append(Step(method=name, params=proposed))
        if len(steps) == len(template):
            yield Strategy(steps=tuple(steps))


def _tried(choice: Choice, grids: Collection[GridKind]) -> tuple[Scalar, ...]:
    """The values of a domain, without kinds of grids that are of no use to the runtime."""
    return tuple(v for v in choice.values if not isinstance(v, GridKind) or v in grids)


def _by_distance(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Index tuples by their sum; among equal sums, earlier places move first."""
    for total in range(sum(sizes) - len(sizes) + 1):
        yield from _with_sum(sizes, total)


def _with_sum(sizes: Sequence[int], total: int) -> Iterator[tuple[int, ...]]:
    if not sizes:
        if total == 0:
            yield ()
        return
    most_after = sum(sizes[1:]) - len(sizes[1:])
    # Falling, so that earlier places move first, down to what the places after can still take.
    for first in range(min(sizes[0] - 1, total), max(0, total - most_after) - 1, -1):
        for rest in _with_sum(sizes[1:], total - first):
            yield (first, *rest)


def in_turns(sources: Iterable[Iterable[Strategy]]) -> Iterator[Strategy]:
    """The first of each, then the second of each, and so on."""
    for turn in zip_longest(*sources):
        yield from (strategy for strategy in turn if strategy is not None)


def _require_some(
    methods: tuple[str, ...] | None, by_hash: dict[str, Strategy], refused: dict[str, str]
) -> None:
    """Raise if nothing can run, or a method that was asked for cannot."""
    possible = {step.method for strategy in by_hash.values() for step in strategy.steps}
    for name in methods or ():
        if name not in possible:
            raise StrategyError(f"methods: {name} cannot run on this model: {_why(name, refused)}")
    if not by_hash:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in list(refused.items())[:3])
        raise ConfigError(f"no strategy can run on this model: {reasons or 'there are no methods'}")


def _why(name: str, refused: dict[str, str]) -> str:
    """The first reason given against a method."""
    return next(
        reason for label, reason in refused.items() if label == name or label.startswith(f"{name}(")
    )
