"""The Bayesian policy: Optuna's tree-structured Parzen estimator over the enumerated space.

The space is flattened for it: one parameter per kind names the method of that kind (or none), and
each method has parameters of its own. What is learned of a method alone thus serves its pipelines,
too: on the artificial truth of our tests this covers 93 % of the hypervolume in 10 trials, and one
parameter for the whole sequence of methods 69 %. The study is built anew from the history at every
call; no Optuna storage exists that could disagree with the experiment folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Self, final

from paredown.judge.hypervolume import Score, measured, scores
from paredown.judge.quantities import QUANTITIES
from paredown.methods import registry
from paredown.methods.base import Kind
from paredown.search.base import Decision, Policy, View
from paredown.search.space import Space
from paredown.spec.run import OBJECTIVES, Objective
from paredown.spec.serial import canonical
from paredown.spec.strategy import Strategy

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

MAX_DRAWS = 32
"""Proposals of the sampler that may fall on a known strategy before the grid's order decides."""
DRAWS = 2
"""Proposals of the sampler, which takes all of them for equally good; the cheapest is tried."""

_NONE = "none"

Code = tuple[tuple[str, str], ...]
"""A strategy as the sampler sees it: (parameter, value) pairs, its methods first."""


@final
@dataclass(frozen=True, kw_only=True)
class Bayesian(Policy):
    """First the defaults of the methods; then where good trials were denser than bad.

    Results are compared by the logarithm of each objective over the baseline's. Trials that broke
    a limit, and failed ones, rank behind all others, so what resembles them is avoided. An
    objective that some finished trial did not measure is left out.

    Attributes:
        seed: of the run.
        objectives: what to trade off.

    Source: Bergstra et al. 2011, "Algorithms for hyper-parameter optimization"; for several
    objectives Ozaki et al. 2022, "Multiobjective tree-structured Parzen estimator".
    """

    name: ClassVar[str] = "bayesian"
    seed: int
    objectives: tuple[Objective, ...] = OBJECTIVES

    @classmethod
    def create(cls, *, seed: int, objectives: tuple[Objective, ...]) -> Self:
        return cls(seed=seed, objectives=objectives)

    def choose(self, view: View) -> Decision:
        if (first := view.opened_by(self.name)) is not None:
            return first
        names = measured(view.history, self.objectives)
        if not names:
            reason = "nothing to learn from yet: next in the order of the space"
            return view.following(reason=reason, policy=self.name)
        seen = scores(view.history, names, view.limits)
        drawn = _draw(seen, view, objectives=len(names), seed=view.seed(self.seed, self.name))
        if not drawn:  # or all that is listed was tried
            reason = f"{MAX_DRAWS} draws fell on known strategies: next in the order of the space"
            return view.following(reason=reason, policy=self.name)
        chosen = min(drawn, key=view.costs.seconds)
        by = ", ".join(QUANTITIES[name].measurement for name in names)
        reason = f"likeliest to be good, judged by {len(seen)} trials on {by}"
        return view.decide(chosen, reason=reason, policy=self.name)


def _draw(seen: Sequence[Score], view: View, *, objectives: int, seed: int) -> list[Strategy]:
    """Strategies that the sampler proposes, up to `DRAWS`; none if it finds none in time.

    Draws that are refused, and trials being run, are "running" in the study, where the sampler
    takes running trials for bad ones: so it looks elsewhere instead of proposing them again.
    """
    import optuna

    flat = _flatten(view.space)
    wanted = {flat.codes[strategy.hash]: strategy for strategy in view.left}
    found: list[Strategy] = []
    with _quiet():
        study = optuna.create_study(
            directions=["minimize"] * objectives,
            sampler=optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=1, multivariate=False, constant_liar=True
            ),
        )
        study.add_trials([_told(s, flat) for s in seen if s.strategy.hash in flat.codes])
        for decision in view.pending:
            if decision.strategy is not None and decision.strategy.hash in flat.codes:
                study.enqueue_trial(dict(flat.codes[decision.strategy.hash]))
                _suggest(study.ask(), flat)
        for _ in range(MAX_DRAWS):
            # Popped, so that the same strategy drawn twice is one proposal.
            drawn = wanted.pop(_suggest(study.ask(), flat), None)
            if drawn is not None:
                found.append(drawn)
            if len(found) == DRAWS:
                break
    return found


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


@lru_cache(maxsize=4)
def _flatten(space: Space) -> _Flat:
    methods = {step.method for strategy in space.strategies for step in strategy.steps}
    kinds = {name: registry.load(name).kind for name in methods}
    flat = _Flat(codes={}, values={}, following={})
    for strategy in space.strategies:
        code = _encode(strategy, kinds)
        flat.codes[strategy.hash] = code
        for place, (name, value) in enumerate(code):
            # Methods come first in a code, so its beginning decides which parameter is next.
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
