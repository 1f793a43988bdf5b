"""The search space: what is allowed, what it would weigh, and how to find one's way in it.

A space is a constraint, not a list: it says whether a strategy may be proposed and why not, draws
one, and knows what lies one step away. `Enumerated` is the space that is listed as well, `Product`
the one that cannot be, because a plan gives each unit of the model a value of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from itertools import zip_longest
from random import Random
from typing import ClassVar, Self, final

from paredown.errors import ConfigError
from paredown.judge.limits import broken_by_size
from paredown.methods import registry
from paredown.methods.base import Kind
from paredown.runtimes import registry as runtimes
from paredown.runtimes.base import Engine
from paredown.search.index import Genome, Index, genome, kind_of, strategy_of
from paredown.spec.model import ModelSpec
from paredown.spec.scheme import GridKind
from paredown.spec.strategy import Step, Strategy, parse_strategy
from paredown.spec.target import Target


@final
class Rules:
    """What may run on a model, for a target, and what its weights would take. Nothing is loaded.

    Asked about any strategy, in a space or not; the answers are worked out when asked for, once.

    Attributes:
        spec: the model.
        target: where it will run, and the user's limits.
        baseline_bytes: weights before compression; predicted ratios refer to it.
    """

    def __init__(self, spec: ModelSpec, target: Target, *, baseline_bytes: int | None) -> None:
        """`baseline_bytes`: None takes those of `spec`."""
        self.spec, self.target = spec, target
        self.baseline_bytes = spec.weight_bytes if baseline_bytes is None else baseline_bytes
        self._planner = registry.Planner(spec, target)
        self._runtime = runtimes.load(target.runtime)
        self._bytes: dict[str, int] = {}

    @property
    def has_own_types(self) -> bool:
        """Whether the runtime stores grids in types of its own, several in the same one."""
        return isinstance(self._runtime, Engine) and self._runtime.own_files

    @property
    def grids(self) -> tuple[GridKind, ...]:
        """Kinds of integer grids that are worth a trial for the runtime."""
        return self._runtime.grids

    @property
    def most_files(self) -> int | None:
        """Bytes of the weights files that the user allows; None where they are not bounded."""
        return self.target.limits.most_bytes(self.spec.parameters)

    @property
    def base_files(self) -> int:
        """Bytes of the uncompressed weights in the files of the target's runtime."""
        return self._runtime.weights_bytes(self.spec) + self._other

    def files_bytes(self, strategy: Strategy) -> int:
        """Bytes of its files after a strategy (canonical), a tokenizer in them included.

        Raises:
            ConfigError: as `predicted_bytes`.
        """
        return self.predicted_bytes(strategy) + self._other

    @cached_property
    def _other(self) -> int:
        engine = self._runtime
        return engine.other_bytes(self.spec) if isinstance(engine, Engine) else 0

    def predicted_bytes(self, strategy: Strategy) -> int:
        """Weights after a strategy (canonical), in the files of the target's runtime.

        Raises:
            ConfigError: it cannot run on this model; says why, and the mend.
        """
        known = self._bytes.get(strategy.hash)
        if known is None:
            made = self._planner.check(strategy)
            known = self._bytes[strategy.hash] = self._runtime.weights_bytes(made)
        return known

    def broken_limit(self, strategy: Strategy) -> str | None:
        """Which limit its predicted size breaks by itself, if one. Raises: as above."""
        ratio = self.baseline_bytes / self.predicted_bytes(strategy)
        return broken_by_size(
            self.files_bytes(strategy), ratio, self.target.limits, parameters=self.spec.parameters
        )

    def refusal(self, strategy: Strategy) -> str | None:
        """Why a strategy (canonical) cannot be tried; None if it can."""
        try:
            return self.broken_limit(strategy)
        except ConfigError as error:
            return str(error)


class Space(ABC):
    """Strategies that may be proposed: all checked against the model, the target and its limits.

    Strategies that go in and come out are canonical: every parameter is explicit.

    Attributes:
        is_listed: whether `strategies` are all there are.
        refused: why a strategy or a whole method was left out of the list, by its label for people.
        baseline_bytes: weights before compression; predicted ratios refer to it.
    """

    is_listed: ClassVar[bool]
    refused: dict[str, str]
    baseline_bytes: int

    @property
    @abstractmethod
    def strategies(self) -> tuple[Strategy, ...]:
        """Those that are listed, none twice, most promising first: what a grid tries."""

    @property
    @abstractmethod
    def index(self) -> Index:
        """Distances, and what the space has of methods and values."""

    @abstractmethod
    def refusal(self, strategy: Strategy) -> str | None:
        """Why a strategy is not in the space; None if it is."""

    @abstractmethod
    def predicted_bytes(self, strategy: Strategy) -> int:
        """Weights after a strategy of the space."""

    @abstractmethod
    def sample(self, rng: Random) -> Strategy:
        """A strategy of the space; over an enumerated one, each is equally likely."""

    @abstractmethod
    def nearest(self, wanted: Genome, may: Callable[[Strategy], bool]) -> Strategy | None:
        """A strategy with the wanted methods that `may` be taken, as near as the space has one."""

    @abstractmethod
    def without(self, methods: Collection[str]) -> Self:
        """The space without the strategies that use one of these methods."""

    def __contains__(self, strategy: Strategy) -> bool:
        return self.refusal(strategy) is None

    def read(self, text: str) -> Strategy:
        """A strategy as it is written, canonical, for the runtime that this space is for.

        Raises:
            StrategyError: an unknown method or parameter.
        """
        steps = []
        for step in parse_strategy(text).steps:
            usual = self.index.usual.get(step.method)
            runtime = None if usual is None else usual.params.get("runtime")
            named = {} if runtime is None else {"runtime": runtime}
            steps.append(Step(method=step.method, params=named | step.params))
        return registry.canonical(Strategy(steps=tuple(steps)))

    def neighbours(self, strategy: Strategy) -> Iterator[Strategy]:
        """Those of the space one step away: a parameter's next value, one unit of a plan, another
        method of a kind, a step more, a step less. Found while they are read: a plan over 200
        units has hundreds, and each costs a check."""
        around = map(strategy_of, self.index.around(genome(strategy)))
        return (near for near in around if near in self)

    def first_of_methods(self) -> dict[str, Strategy]:
        """Of every method the first strategy with it, by its name; kinds in turns."""
        firsts: dict[str, Strategy] = {}
        for strategy in self.strategies:
            for step in strategy.steps:
                firsts.setdefault(step.method, strategy)
        by_kind: dict[Kind, list[str]] = {}
        for name in firsts:
            by_kind.setdefault(kind_of(name), []).append(name)
        turns = zip_longest(*by_kind.values())
        return {name: firsts[name] for turn in turns for name in turn if name is not None}

    def ratio(self, strategy: Strategy) -> float:
        """Predicted compression ratio."""
        return self.baseline_bytes / self.predicted_bytes(strategy)

    def expected(self, strategy: Strategy) -> dict[str, float]:
        """What is known before running, by measurement name."""
        size = float(self.predicted_bytes(strategy))
        return {"size": size, "compression_ratio": self.ratio(strategy)}
