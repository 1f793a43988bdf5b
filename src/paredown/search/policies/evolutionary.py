"""The evolutionary policy: NSGA-II on strategies, one child at a time.

Strategies are bred as they are: step by step and parameter by parameter. Optuna's NSGA-II is not
used, because on a conditional space (a parameter exists only with its method) it mutates every
parameter at every time, which is a random search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self, final

import numpy as np

from paredown.analysis.pareto import FloatArray, pareto_mask
from paredown.judge.hypervolume import Score, measured, scores
from paredown.methods.base import Kind
from paredown.search.base import Decision, Policy, View
from paredown.search.index import Genome, Index, PlanAxis, genome
from paredown.spec.run import OBJECTIVES, Objective
from paredown.spec.strategy import Step, Strategy

POPULATION = 20
"""Parents: the best of all trials so far."""
CROSSOVER = 0.5
"""Share of children with two parents."""
TRIES = 32
"""Children that may turn out to be known before the grid's order decides."""
CHILDREN = 2
"""Children that are born for each proposal; the one with the shortest trial is tried."""


@final
@dataclass(frozen=True, kw_only=True)
class Evolutionary(Policy):
    """First the defaults of the methods; then children of the best trials.

    The parents are the best trials by rank of non-dominance, then by crowding; those that broke a
    limit rank behind all others, by how much they broke it. A child takes the step of each kind
    from one of two parents and is changed in one place: a parameter to a neighbouring value, a
    method for another of its kind, a step added or dropped; of a plan, some units to neighbouring
    values. A child that was tried already gives way to its nearest untried relative with the same
    methods.

    Attributes:
        seed: of the run.
        objectives: what to trade off.

    Source: Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II",
    with constraint domination (section VI); one child at a time as in Durillo, Nebro et al. 2009,
    "On the effect of the steady-state selection scheme in multi-objective genetic algorithms".
    """

    name: ClassVar[str] = "evolutionary"
    seed: int
    objectives: tuple[Objective, ...] = OBJECTIVES

    @classmethod
    def create(cls, *, seed: int, objectives: tuple[Objective, ...]) -> Self:
        return cls(seed=seed, objectives=objectives)

    def choose(self, view: View) -> Decision:
        if (first := view.opened_by(self.name)) is not None:
            return first
        names = measured(view.history, self.objectives)
        known = scores(view.history, names, view.limits) if names else []
        # What the user has excluded meanwhile, or asked for from outside of the space, has no
        # children.
        parents = survivors([s for s in known if s.strategy in view.space])
        rng = Random(view.seed(self.seed, self.name))
        born: dict[str, tuple[Strategy, str]] = {}
        for _ in range(TRIES if parents else 0):
            child = _breed(parents, view, rng)
            if child is not None:
                born.setdefault(child[0].hash, child)
            if len(born) == CHILDREN:
                break
        if not born:
            reason = "no parents with untried children: next in the order of the space"
            return view.following(reason=reason, policy=self.name)
        chosen, reason = min(born.values(), key=lambda child: view.costs.seconds(child[0]))
        return view.decide(chosen, reason=reason, policy=self.name)


def survivors(trials: Sequence[Score], *, count: int = POPULATION) -> list[Score]:
    """The best `count` trials, best first: by broken limits, rank of non-dominance, crowding."""
    fit = [trial for trial in trials if trial.violation == 0]
    unfit = sorted((t for t in trials if t.violation > 0), key=lambda t: t.violation)
    ordered: list[Score] = []
    while fit and len(ordered) < count:
        rows = np.array([trial.costs for trial in fit])
        kept = pareto_mask(rows)
        front = [trial for trial, best in zip(fit, kept, strict=True) if best]
        apart = crowding(rows[kept])
        # Within a front the loneliest first, so that its ends and gaps have children, too.
        ordered += [front[i] for i in np.argsort(-apart, kind="stable")]
        fit = [trial for trial, best in zip(fit, kept, strict=True) if not best]
    return [*ordered, *unfit][:count]


def crowding(rows: FloatArray) -> FloatArray:
    """(n,): how far apart the neighbours of each row are, summed over columns, each scaled to its
    span; infinite at the ends.

    Source: Deb et al. 2002, section III B (`crowding-distance-assignment`).
    """
    apart = np.zeros(len(rows))
    for column in rows.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        apart[order[[0, -1]]] = np.inf
        if span > 0:
            apart[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return apart


def _breed(parents: Sequence[Score], view: View, rng: Random) -> tuple[Strategy, str] | None:
    """An untried child and where it comes from; None where chance led nowhere."""
    index = view.space.index
    mother = _tournament(parents, rng)
    child, origin = genome(mother.strategy), f"child of episode {mother.episode}"
    if rng.random() < CROSSOVER:
        father = _tournament(parents, rng)
        if father.episode != mother.episode:
            child = _cross(child, genome(father.strategy), index, rng)
            origin = f"child of episodes {mother.episode} and {father.episode}"
    changes: tuple[Change, ...] = (_shift, _shift, _swap, _extend, _shorten)
    if index.planned(child):  # hundreds of units deserve more than one chance in six
        changes += (_reassign,) * 3
    changed = rng.choice(changes)(child, index, parents, rng)
    if changed is None:
        return None
    found = view.nearest(changed[0])
    return None if found is None else (found, f"{origin}, {changed[1]}")


def _tournament(parents: Sequence[Score], rng: Random) -> Score:
    """The better of two; parents are in order, best first."""
    return parents[min(rng.randrange(len(parents)), rng.randrange(len(parents)))]


def _cross(one: Genome, other: Genome, index: Index, rng: Random) -> Genome:
    """The step of each kind, or its absence, from either parent; never empty. Where both have the
    same method, each unit of its plan comes from either."""
    child = {
        kind: source[kind]
        for kind in Kind
        if kind in (source := one if rng.random() < 0.5 else other)
    }
    for kind, name in index.planned(child):
        if kind in one and kind in other and one[kind].method == other[kind].method:
            axis = index.plans[child[kind].method, name]
            child[kind] = _cross_plans(child[kind], one[kind], other[kind], axis, rng)
    return child or one


def _cross_plans(child: Step, one: Step, other: Step, axis: PlanAxis, rng: Random) -> Step:
    """The child's step, each unit as in either parent (uniform crossover)."""
    parents = (one, other)
    return axis.changed(child, {u: axis.value(rng.choice(parents), u) for u in axis.units})


Change = Callable[[Genome, Index, Sequence[Score], Random], "tuple[Genome, str] | None"]


def _shift(
    child: Genome, index: Index, parents: Sequence[Score], rng: Random
) -> tuple[Genome, str] | None:
    """One parameter to a neighbouring value."""
    places = index.searched(child)
    if not places:
        return None
    kind, name = rng.choice(places)
    step = child[kind]
    to = rng.choice(index.beside(step, name))
    changed = index.with_value(step, name, to)
    return {**child, kind: changed}, f"{step.method}: {name} towards {to}"


def _reassign(
    child: Genome, index: Index, parents: Sequence[Score], rng: Random
) -> tuple[Genome, str] | None:
    """Some units of a plan one place up, or one down; as likely one as two, four, .. or all of
    them: near the front single units count, and far from it one of hundreds is no step at all."""
    kind, name = rng.choice(index.planned(child))
    step = child[kind]
    axis = index.plans[step.method, name]
    count = min(2 ** rng.randint(0, len(axis.units).bit_length()), len(axis.units))
    up = rng.random() < 0.5
    changes = {
        unit: axis.domain.moved(axis.value(step, unit), up=up)
        for unit in rng.sample(axis.units, count)
    }
    reason = f"{step.method}: {count} units of its {name} {'up' if up else 'down'}"
    return {**child, kind: axis.changed(step, changes)}, reason


def _swap(
    child: Genome, index: Index, parents: Sequence[Score], rng: Random
) -> tuple[Genome, str] | None:
    """One method for another of its kind."""
    kind = rng.choice(list(child))
    others = [name for name in index.methods[kind] if name != child[kind].method]
    if not others:
        return None
    name = rng.choice(others)
    reason = f"{name} in place of {child[kind].method}"
    return {**child, kind: _usual(name, index, parents)}, reason


def _extend(
    child: Genome, index: Index, parents: Sequence[Score], rng: Random
) -> tuple[Genome, str] | None:
    """A step of a kind that was missing."""
    missing = [kind for kind in Kind if kind not in child and index.methods[kind]]
    if not missing:
        return None
    kind = rng.choice(missing)
    name = rng.choice(index.methods[kind])
    return {**child, kind: _usual(name, index, parents)}, f"with {name}"


def _shorten(
    child: Genome, index: Index, parents: Sequence[Score], rng: Random
) -> tuple[Genome, str] | None:
    """One step less."""
    if len(child) < 2:
        return None
    kind = rng.choice(list(child))
    reason = f"without {child[kind].method}"
    return {k: step for k, step in child.items() if k is not kind}, reason


def _usual(method: str, index: Index, parents: Sequence[Score]) -> Step:
    """The method as the best parent has it, else at the first parameters of the space."""
    tried = (step for p in parents for step in p.strategy.steps if step.method == method)
    return next(tried, None) or index.usual[method]
