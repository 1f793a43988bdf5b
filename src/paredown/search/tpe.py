"""The Bayesian policy: Optuna's tree-structured Parzen estimator over the enumerated space.

The space is flattened for it: one parameter per kind names the method of that kind (or none), and
each method has parameters of its own. What is learned of a method alone thus serves its pipelines,
too: on the artificial truth of our tests this covers 93 % of the hypervolume in 10 trials, and one
parameter for the whole sequence of methods 69 %. The study is built anew from the history at every
call; no Optuna storage exists that could disagree with the experiment folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self, final

from paredown.methods import registry
from paredown.methods.base import Kind
from paredown.search.base import (
    Budget,
    Decision,
    Policy,
    call_seed,
    decide,
    end,
    untried,
    why_end,
)
from paredown.search.space import Space
from paredown.spec.result import TrialResult
from paredown.spec.run import OBJECTIVES, Objective
from paredown.spec.serial import canonical
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits, quality_loss
from paredown.spec.units import GB

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

MEASUREMENTS: dict[Objective, str] = {
    "quality": "perplexity",
    "size": "size",
    "latency": "decode_latency",
    "memory": "peak_memory",
}
"""What stands for each objective; all positive, all to be minimised."""
MAX_DRAWS = 32
"""Proposals of the sampler that may fall on a known strategy before the grid's order decides."""
_FAILED = 1e6  # violation of a failed trial: worse than any broken limit

_NONE = "none"

Code = tuple[tuple[str, str], ...]
"""A strategy as the sampler sees it: (parameter, value) pairs, its methods first."""


@final
@dataclass(frozen=True, kw_only=True)
class Tpe(Policy):
    """First the defaults, in the order of the space; then where good trials were denser than bad.

    Results are compared by the logarithm of each objective over the baseline's. Trials that broke
    a limit, and failed ones, rank behind all others, so what resembles them is avoided. An
    objective that some finished trial did not measure is left out.

    Attributes:
        seed: of the run.
        objectives: what to trade off.
        n_startup: trials taken in the order of the space before learning begins; None means as
            many as there are methods, so that each one's default is seen.

    Source: Bergstra et al. 2011, "Algorithms for hyper-parameter optimization"; for several
    objectives Ozaki et al. 2022, "Multiobjective tree-structured Parzen estimator".
    """

    name: ClassVar[str] = "tpe"
    seed: int
    objectives: tuple[Objective, ...] = OBJECTIVES
    n_startup: int | None = None

    @classmethod
    def create(cls, *, seed: int, objectives: tuple[Objective, ...]) -> Self:
        return cls(seed=seed, objectives=objectives)

    def propose(
        self, history: Sequence[TrialResult], space: Space, limits: Limits, *, budget: Budget
    ) -> Decision:
        left = untried(history, space)
        if reason := why_end(left, space, budget):
            return end(reason, policy=self.name)
        n_startup = _count_methods(space) if self.n_startup is None else self.n_startup
        trials = [result for result in history if result.strategy is not None]
        if len(trials) < n_startup:
            reason = f"start-up, in the order of the space ({len(trials) + 1} of {n_startup})"
            return decide(left[0], space, reason=reason, policy=self.name)
        names = self._measured(history)
        if not names:
            reason = "nothing to learn from yet: next in the order of the space"
            return decide(left[0], space, reason=reason, policy=self.name)
        scores = _scores(history, names, limits)
        drawn = _draw(
            scores, space, left, objectives=len(names), seed=call_seed(self.seed, history)
        )
        if drawn is None:
            reason = f"{MAX_DRAWS} draws fell on known strategies: next in the order of the space"
            return decide(left[0], space, reason=reason, policy=self.name)
        reason = f"likeliest to be good, judged by {len(scores)} trials on {', '.join(names)}"
        return decide(drawn, space, reason=reason, policy=self.name)

    def _measured(self, history: Sequence[TrialResult]) -> tuple[str, ...]:
        """Measurements of the objectives that every successful trial has."""
        finished = [result for result in history if result.status == "ok"]
        return tuple(
            name
            for name in (MEASUREMENTS[objective] for objective in self.objectives)
            if finished and all((result.value(name) or 0.0) > 0 for result in finished)
        )


@dataclass(frozen=True, kw_only=True)
class Score:
    """A finished trial as the sampler is told of it: costs, and by how much limits are broken."""

    strategy: Strategy
    costs: tuple[float, ...]
    violations: dict[str, float]


def violations(result: TrialResult, baseline: TrialResult, limits: Limits) -> dict[str, float]:
    """By how much a result breaks each limit, relative to the limit; <= 0 where it is met.

    A limit whose measurement is missing is left out.
    """
    memory, loss = result.value("peak_memory"), quality_loss(result, baseline)
    speedup, ratio = result.value("speedup"), result.value("compression_ratio")
    found: dict[str, float] = {}
    if limits.max_memory_gb is not None and memory is not None:
        found["max_memory_gb"] = memory / (limits.max_memory_gb * GB) - 1.0
    if limits.max_accuracy_loss is not None and loss is not None:
        found["max_accuracy_loss"] = (loss - limits.max_accuracy_loss) / 100.0
    if limits.min_speedup is not None and speedup is not None:
        found["min_speedup"] = 1.0 - speedup / limits.min_speedup
    if limits.target_ratio is not None and ratio is not None:
        found["target_ratio"] = 1.0 - ratio / limits.target_ratio
    return found


def _count_methods(space: Space) -> int:
    return len({step.method for strategy in space.strategies for step in strategy.steps})


def _scores(history: Sequence[TrialResult], names: tuple[str, ...], limits: Limits) -> list[Score]:
    """All trials but the baseline. Failed ones get the worst cost seen of each objective."""
    finished = [result for result in history if result.status == "ok"]
    baseline = next((r for r in finished if r.strategy is None), None)
    unit = baseline or finished[0]

    def costs(result: TrialResult) -> tuple[float, ...]:
        return tuple(math.log(_value(result, n) / _value(unit, n)) for n in names)

    worst = tuple(max(column) for column in zip(*map(costs, finished), strict=True))
    scores = []
    for result in history:
        if result.strategy is None:
            continue
        if result.status == "failed":
            scores.append(Score(strategy=result.strategy, costs=worst,
                                violations={"failed": _FAILED}))  # fmt: skip
        else:
            broken = {} if baseline is None else violations(result, baseline, limits)
            scores.append(Score(strategy=result.strategy, costs=costs(result), violations=broken))
    return scores


def _value(result: TrialResult, name: str) -> float:
    value = result.value(name)
    if value is None:
        raise AssertionError(name)
    return value


def _draw(
    scores: Sequence[Score], space: Space, left: Sequence[Strategy], *, objectives: int, seed: int
) -> Strategy | None:
    """A strategy of `left` that the sampler proposes, or None if it finds none in time.

    Draws that are refused stay "running" in the study, where the sampler takes running trials for
    bad ones: so it looks elsewhere instead of proposing them again.
    """
    import optuna

    flat = _flatten(space)
    wanted = {flat.codes[strategy.hash]: strategy for strategy in left}
    with _quiet():
        study = optuna.create_study(
            directions=["minimize"] * objectives,
            sampler=optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=1, multivariate=False, constant_liar=True
            ),
        )
        study.add_trials(
            [_told(score, flat) for score in scores if score.strategy.hash in flat.codes]
        )
        for _ in range(MAX_DRAWS):
            drawn = wanted.get(_suggest(study.ask(), flat))
            if drawn is not None:
                return drawn
    return None


@dataclass(frozen=True, kw_only=True)
class _Flat:
    """The space as the sampler sees it.

    Attributes:
        codes: of every strategy, by its hash.
        values: of every parameter, in the order in which the space brings them up.
        following: the parameter that comes after the beginning of a code.
    """

    codes: dict[str, Code]
    values: dict[str, list[str]]
    following: dict[Code, str]


def _flatten(space: Space) -> _Flat:
    methods = {step.method for strategy in space.strategies for step in strategy.steps}
    kinds = {name: registry.load(name).kind for name in methods}
    flat = _Flat(codes={}, values={}, following={})
    for key, strategy in space.by_hash.items():
        code = _encode(strategy, kinds)
        flat.codes[key] = code
        for place, (name, value) in enumerate(code):
            flat.following[code[:place]] = name
            values = flat.values.setdefault(name, [])
            if value not in values:
                values.append(value)
    return flat


def _encode(strategy: Strategy, kinds: dict[str, Kind]) -> Code:
    method_of = {kinds[step.method]: step.method for step in strategy.steps}
    slots = [(kind.value, method_of.get(kind, _NONE)) for kind in Kind]
    params = [
        (f"{step.method}.{name}", canonical(value))
        for step in strategy.steps
        for name, value in step.params.items()
    ]
    return (*slots, *params)


def _told(score: Score, flat: _Flat) -> FrozenTrial:
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import create_trial

    code = dict(flat.codes[score.strategy.hash])
    return create_trial(
        values=score.costs,
        params=code,
        distributions={name: CategoricalDistribution(flat.values[name]) for name in code},
        constraints=score.violations,
    )


def _suggest(trial: Trial, flat: _Flat) -> Code:
    """A code, complete unless it left the space on the way."""
    code: Code = ()
    while name := flat.following.get(code):
        code = (*code, (name, trial.suggest_categorical(name, flat.values[name])))
    return code


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's own log lines are not for our users."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
