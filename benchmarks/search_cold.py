"""Cold starts: what the first trials find on a model of which nothing was measured.

Runs of two, four and eight episodes are replayed on the recorded table of one model, with what is
known of *another* model: a sample of its rows, as many as the package ships. How much of the
hypervolume of the whole table is covered then, within the limits? The peers are fixed orders of
strategies: the best one for the other model, of the same rows, and of all of its table, which is
six times as much as the search is told; and, as the most that so many trials can bring, the best
one for this model in hindsight.

The same live, on real models: the default search and the best fixed order of four by the package's
knowledge are run, and compared by what both together have found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import paredown
from paredown.analysis.hypervolume import hypervolume
from paredown.analysis.statistics import mean_stderr
from paredown.artifact.source import locate
from paredown.coordinate.steering import USER
from paredown.judge.hypervolume import covered
from paredown.judge.limits import breaks
from paredown.judge.quantities import QUANTITIES
from paredown.judge.quantity import Z95
from paredown.methods import registry
from paredown.methods.shared.knowledge import Known
from paredown.search.enumerated import Enumerated
from paredown.search.knowledge import Knowledge, anchors, effects
from paredown.search.policies import registry as policies
from paredown.search.replay import Table, replay, whole
from paredown.spec.infer import infer_spec
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits, Target

OBJECTIVES: tuple[Objective, ...] = ("quality", "size")
COUNTS = (2, 4, 8)
"""Episodes of the runs."""
ROWS = 50
"""What is known of the other model: about as much as the package ships."""
LIMITS = {"none": Limits(), "loss 10 %": Limits(max_accuracy_loss=10)}
INFORMED = "portfolio, informed"
SMALL: dict[str, Any] = {
    "evaluate": {"tokens": 2048, "energy_s": 0.0, "repeats": 2},
    "objectives": OBJECTIVES,
}
"""Settings of live runs: what keeps a trial short without changing what is compressed."""
CONTENDERS = (INFORMED, "portfolio", "evolutionary", "bandit", "bayesian", "grid", "random")


@dataclass(frozen=True)
class Share:
    """Of the best feasible hypervolume, over seeds.

    Attributes:
        half: of the 95 % interval of the mean.
        worst: of all seeds.
    """

    mean: float
    half: float = 0.0
    worst: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Share:
        """Of one value per seed."""
        found = mean_stderr(values)
        return cls(found.value, Z95 * (found.stderr or 0.0), min(values))

    def __str__(self) -> str:
        if self.worst is None:
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} ± {self.half:.3f} ({self.worst:.3f})"


def rows_of(table: Table, seed: int) -> tuple[Known, ...]:
    """What a sample of a table's trials would be as rows of the package's knowledge."""
    base, name = table.baseline.value("perplexity"), table.about["settings"]["model"]
    finished = [t for t in table.trials if t.status == "ok" and t.strategy is not None]
    found = []
    for trial in Random(seed).sample(finished, min(ROWS, len(finished))):
        mine, kl = trial.value("perplexity"), trial.value("kl")
        if base and mine and kl is not None:
            found.append(
                Known(model=name, strategy=str(trial.strategy), quality=mine / base, kl=kl)
            )
    return tuple(found)


def best_order(
    baseline: TrialResult, trials: Sequence[TrialResult], limits: Limits, count: int
) -> list[TrialResult]:
    """So many trials, each the one that adds most to those before it.

    Source: the greedy choice comes within a factor 1 - 1/e of the best set, as the volume covered
    is submodular (Nemhauser, Wolsey, Fisher 1978).
    """
    chosen: list[TrialResult] = []
    while len(chosen) < count:
        left = [t for t in trials if t not in chosen]
        chosen.append(max(left, key=lambda t: covered([baseline, *chosen, t], OBJECTIVES, limits)))
    return [t.model_copy(update={"episode": n}) for n, t in enumerate(chosen, start=1)]


def after(table: Table, trials: Sequence[TrialResult], limits: Limits) -> float:
    """Share of the table's feasible hypervolume that these trials cover."""
    found = covered([table.baseline, *trials], OBJECTIVES, limits)
    return found / whole(table, OBJECTIVES, limits)


def run_of(
    name: str, table: Table, space: Enumerated, rows: Sequence[Known], limits: Limits, count: int,
    seed: int,
) -> float:  # fmt: skip
    """The share that a run of so many episodes covers."""
    knowledge = None
    if name == INFORMED:
        first = anchors(space, limits, episodes=count, rows=rows)
        knowledge = Knowledge(anchors=first, effects=effects(rows=rows))
    policy = policies.create(
        name.partition(",")[0], seed=seed, objectives=OBJECTIVES, knowledge=knowledge
    )
    results = replay(
        policy, table, space=space, episodes=count, seconds=None, limits=limits,
        enough=lambda results: len(results) > count,
    )  # fmt: skip
    return after(table, results[1:], limits)


def compare(table: Table, other: Table, limits: Limits, seeds: range) -> dict[str, list[Share]]:
    """Shares after each of `COUNTS`, of the contenders and of the fixed orders."""
    space = table.space
    found: dict[str, list[Share]] = {}
    for name in CONTENDERS:
        of_one = partial(run_of, name, table, space)
        found[name] = [
            Share.of([of_one(rows_of(other, seed), limits, count, seed) for seed in seeds])
            for count in COUNTS
        ]

    def transferred(rows: Sequence[Known], count: int) -> float:
        """Of the best order of these rows on the other model."""
        wanted = {row.strategy for row in rows}
        trials = [t for t in other.trials if str(t.strategy) in wanted]
        order = best_order(other.baseline, trials, limits, count)
        return after(table, _here(table, order), limits)

    found["fixed order, as informed"] = [
        Share.of([transferred(rows_of(other, seed), count) for seed in seeds]) for count in COUNTS
    ]
    everything = best_order(other.baseline, other.trials, limits, max(COUNTS))
    hindsight = best_order(table.baseline, table.trials, limits, max(COUNTS))
    for name, order in (("fixed order, all known", everything), ("hindsight", hindsight)):
        shares = [after(table, _here(table, order[:count]), limits) for count in COUNTS]
        found[name] = [Share(share) for share in shares]
    return found


def _here(table: Table, order: Sequence[TrialResult]) -> list[TrialResult]:
    """What came of the same strategies on the model of `table`."""
    strategies = [trial.strategy for trial in order if trial.strategy is not None]
    return _numbered([table.by_hash[s.hash] for s in strategies if s.hash in table.by_hash])


def _numbered(trials: Sequence[TrialResult]) -> list[TrialResult]:
    return [t.model_copy(update={"episode": n}) for n, t in enumerate(trials, start=1)]


def report(paths: Sequence[Path], seeds: range) -> str:
    """Markdown tables: each table searched with what is known of the other one."""
    first, second = map(Table.read, paths)
    lines = []
    for table, other in ((first, second), (second, first)):
        for title, limits in LIMITS.items():
            name = table.about["settings"]["model"]
            lines += [f"\n{name}, limits: {title}\n", _HEAD, "|---|" + "---:|" * len(COUNTS)]
            for contender, shares in compare(table, other, limits, seeds).items():
                lines.append(f"| {contender} | " + " | ".join(map(str, shares)) + " |")
    return "\n".join(lines)


_HEAD = "| | " + " | ".join(f"after {count}" for count in COUNTS) + " |"


def fixed_four(limits: Limits) -> list[Strategy]:
    """The best fixed order of four by the package's knowledge, with sizes as on `demo`: what one
    would try everywhere, whatever comes of it."""
    spec = infer_spec(locate("demo"), name="demo")
    space = Enumerated.build(spec, Target())
    low, high = ({n: np.log(getattr(QUANTITIES[n], end)) for n in OBJECTIVES}
                 for end in ("best", "worst"))  # fmt: skip
    places = []
    for effect in effects():
        if effect.strategy not in space:
            continue
        over: dict[Objective, float] = {
            "quality": effect.over["quality"], "size": 1 / space.ratio(effect.strategy)
        }  # fmt: skip
        if not breaks(over, limits):
            place = [float((np.log(over[n]) - low[n]) / (high[n] - low[n])) for n in OBJECTIVES]
            places.append((effect.strategy, place))
    chosen: list[tuple[Strategy, list[float]]] = []
    while places and len(chosen) < 4:
        best = max(places, key=lambda each: _volume([*(p for _, p in chosen), each[1]]))
        places.remove(best)
        chosen.append(best)
    return [strategy for strategy, _ in chosen]


def _volume(places: Sequence[Sequence[float]]) -> float:
    inside = [place for place in places if max(place) < 1]
    return hypervolume(inside, np.ones(len(OBJECTIVES))) if inside else 0.0


def live(model: str, folder: Path, settings: dict[str, Any]) -> str:
    """A markdown table of real runs of four: the default search, and the fixed order.

    What has finished in `folder` is not run again.
    """
    lines = []
    for title, limits in LIMITS.items():
        runs = {
            name: _experiment(name, model, folder, limits, settings)
            for name in ("search", "fixed order")
        }
        baseline, trials = runs["search"][0], [t for run in runs.values() for t in run[1:]]
        best = covered([baseline, *_numbered(trials)], OBJECTIVES, limits)
        lines += [f"\n{Path(model).name}, limits: {title}\n", _LIVE, "|---|---:|---:|---|"]
        for name, results in runs.items():
            shares = [covered(results[: n + 1], OBJECTIVES, limits) / best for n in (2, 4)]
            tried = "; ".join(map(_in_words, results[1:]))
            lines.append(f"| {name} | {shares[0]:.3f} | {shares[1]:.3f} | {tried} |")
    return "\n".join(lines)


_LIVE = "| | after 2 | after 4 | tried: times smaller, perplexity |"


def _in_words(result: TrialResult) -> str:
    label = "" if result.strategy is None else registry.label(result.strategy)
    ratio, loss = result.value("compression_ratio"), result.value("perplexity_ratio")
    if ratio is None or loss is None:
        return f"`{label}` failed"
    return f"`{label}` {ratio:.2f}, {100 * (loss - 1):+.1f} %"


def _experiment(
    name: str, model: str, folder: Path, limits: Limits, settings: dict[str, Any]
) -> list[TrialResult]:
    """Of a run of four, the baseline first; gone on with, or read back, where it is there."""
    loss = limits.max_accuracy_loss
    title = f"{Path(model).name}-{name.replace(' ', '-')}-{'free' if loss is None else loss}"
    steering, order = paredown.Steering(), fixed_four(limits) if name == "fixed order" else []

    def listen(event: str, fields: dict[str, Any]) -> None:
        if event == "result" and fields["result"].episode == 0:
            for strategy in order:
                print(steering.command(f"try {strategy}"), flush=True)

    found = paredown.optimize(
        model, experiment_name=title, output_dir=folder, resume=(folder / title).exists(),
        listen=listen, steering=steering, limits=limits, episodes=4, skills=False, patience=None,
        **settings,
    )  # fmt: skip
    # What of a fixed order this model cannot have was refused, and the search has filled its place.
    kept = [r for r in found.record.results if not order or r.proposed_by in (None, USER)]
    return sorted(kept, key=lambda result: result.episode)
