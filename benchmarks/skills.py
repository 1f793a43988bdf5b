"""Does a search on a second model of a family start better from what the first one taught?

Both models are recorded tables of real trials (`benchmarks/search.py --build`). Seed by seed: one
search on the first model, whose trials become skills as after any run; then two searches on the
second model, one from these skills and one from nothing. Compared is the share of the table's
hypervolume that is covered after half the episodes with skills, and after all of them without.

    python benchmarks/skills.py --first benchmarks/data/search-demo.json.gz \\
        --second benchmarks/data/search-sibling.json.gz
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from search import OBJECTIVES, spec_of

from paredown.analysis.statistics import paired_bootstrap_ci
from paredown.coordinate.skills import (
    Skill,
    learn,
    remembered,
    skills_of,
    transferable,
    warm_start,
)
from paredown.judge.hypervolume import gains
from paredown.search.base import Remembered
from paredown.search.enumerated import Enumerated
from paredown.search.policies import registry as policies
from paredown.search.replay import Table, replay, whole
from paredown.spec.result import Measurement, TrialResult
from paredown.spec.run import RunConfig
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits
from paredown.spec.units import Unit
from paredown.store.experiment import ExperimentRecord

LIMITS = Limits()


def search(
    table: Table,
    space: Enumerated,
    *,
    seed: int,
    episodes: int,
    start: tuple[Strategy, ...] = (),
    effects: tuple[Remembered, ...] = (),
) -> tuple[TrialResult, ...]:
    """A replayed run of the default policy."""
    policy = policies.create(
        "portfolio", seed=seed, objectives=OBJECTIVES, start=start, remembered=effects
    )
    return replay(
        policy, table, space=space, episodes=episodes, seconds=None, limits=LIMITS,
        enough=lambda results: len(results) > episodes,
    )  # fmt: skip


def taught(table: Table, results: Sequence[TrialResult], *, seed: int) -> tuple[Skill, ...]:
    """What an experiment with these results leaves behind."""
    spec = spec_of(table)
    record = ExperimentRecord(
        folder=Path(f"seed-{seed}"),
        config=RunConfig(model=spec.name, objectives=OBJECTIVES),
        run={"model": table.about["settings"]["model_sha256"], "device": "cpu"},
        spec=spec,
        results=tuple(_with_ratio(result, table.baseline) for result in results),
        events=(),
        final=None,
    )
    return skills_of(learn(record))


def _with_ratio(result: TrialResult, baseline: TrialResult) -> TrialResult:
    """With the compression ratio, which a table leaves out."""
    size, base = result.value("size"), baseline.value("size")
    if not size or not base:
        return result
    ratio = Measurement(
        name="compression_ratio", value=base / size, unit=Unit.RATIO, n=1, stderr=None,
        lower_is_better=False, source="derived", how="size of the base over this one's",
    )  # fmt: skip
    return result.model_copy(update={"measurements": (*result.measurements, ratio)})


def progress(results: Sequence[TrialResult], best: float) -> np.ndarray:
    """(episodes,) share of the hypervolume `best` covered after each."""
    return np.asarray(np.cumsum(gains(results, OBJECTIVES, LIMITS)) / best)


def compare(first: Table, second: Table, *, seeds: range, episodes: int) -> str:
    """Lines of a markdown table: share covered after some episodes, from skills and without."""
    spaces, best = (first.space, second.space), whole(second, OBJECTIVES, LIMITS)
    warm, cold, started = [], [], []
    for seed in seeds:
        # Another seed: the second search shall not repeat the first one's luck.
        before = search(first, spaces[0], seed=seed + 1000, episodes=episodes)
        skills = transferable(taught(first, before, seed=seed), spec_of(second))
        start = warm_start(skills, spaces[1], LIMITS, episodes=episodes)
        started.append(len(start))
        from_skills = search(
            second, spaces[1], seed=seed, episodes=episodes, start=start,
            effects=remembered(skills, "cpu"),
        )  # fmt: skip
        from_nothing = search(second, spaces[1], seed=seed, episodes=episodes)
        warm.append(progress(from_skills, best))
        cold.append(progress(from_nothing, best))
    half = episodes // 2
    rows = [("with skills", half, warm), ("cold", half, cold), ("with skills", episodes, warm),
            ("cold", episodes, cold)]  # fmt: skip
    lines = ["| start | episodes | share covered | over a cold start after all |",
             "|---|---:|---:|---:|"]  # fmt: skip
    for name, count, runs in rows:
        shares = [float(run[count - 1]) for run in runs]
        ends = [float(run[-1]) for run in cold]
        gain = paired_bootstrap_ci(
            shares, ends, statistic=lambda a, b: float((a - b).mean()), seed=0
        )
        over = "" if runs is cold and count == episodes else (
            f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        )  # fmt: skip
        lines.append(f"| {name} | {count} | {np.mean(shares):.3f} | {over} |")
    lines.append(f"\n{np.mean(started):.1f} strategies from skills on average")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=Path, required=True, help="table that is learned from")
    parser.add_argument("--second", type=Path, required=True, help="table that is searched")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--episodes", type=int, default=20)
    options = parser.parse_args(arguments)
    first, second = Table.read(options.first), Table.read(options.second)
    print(compare(first, second, seeds=range(options.seeds), episodes=options.episodes))


if __name__ == "__main__":
    main()
