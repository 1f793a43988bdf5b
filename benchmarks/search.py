"""Search policies compared on a recorded table of real trials.

The table is expensive and made once; it holds what a run would have measured of each strategy.
Policies are then replayed on it, many seeds each, with equal space, prices and budget: how much of
the table's hypervolume is covered after how many seconds of trials.

    python benchmarks/search.py --build benchmarks/data/search-demo.json.gz
    python benchmarks/search.py --replay benchmarks/data/search-demo.json.gz --out DIR

A build that was stopped goes on where it was. A second table of the same model with other held-out
text (`--data`), given as `--check`, shows how much of the gain was luck: the searches see the
first, and are judged on the second.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from paredown.analysis.statistics import paired_bootstrap_ci
from paredown.search import policies
from paredown.search.replay import Curve, Table, curve, replay, whole
from paredown.spec.result import TrialResult
from paredown.spec.target import Limits

OBJECTIVES = ("quality", "size")
GOAL = 0.95


def replays(
    name: str, path: Path, check: Path, seeds: int, episodes: int
) -> tuple[list[Curve], float]:
    """The curves of one policy, seed by seed, and the seconds that each had."""
    table, judge = Table.read(path), Table.read(check)
    space, limits = table.space, Limits()
    horizon = episodes * float(np.mean([t.wall_s for t in table.trials]))
    best = whole(judge, OBJECTIVES, limits)
    found = []
    for seed in range(seeds):
        policy = policies.create(name, seed=seed, objectives=OBJECTIVES)
        results = replay(
            policy, table, space=space, episodes=episodes, seconds=horizon, limits=limits
        )
        found.append(curve(_judged(results, judge), OBJECTIVES, limits, whole=best))
    return found, horizon


def _judged(results: tuple[TrialResult, ...], judge: Table) -> list[TrialResult]:
    """The same trials as the other table has them, at the prices that were paid."""
    return [judge.baseline] + [
        judge.by_hash[r.strategy.hash].model_copy(update={"episode": r.episode, "wall_s": r.wall_s})
        for r in results
        if r.strategy is not None
    ]


def summary(curves: dict[str, list[Curve]], horizon: float) -> str:
    """A markdown table; differences to random are paired by seed."""
    lines = [
        f"| policy | mean share covered | over random | portfolio's lead | seconds to {GOAL:.0%} "
        "(median) | reached | covered at the end |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    area = {name: [c.area(horizon) for c in found] for name, found in curves.items()}
    for name, found in sorted(curves.items(), key=lambda item: -float(np.mean(area[item[0]]))):
        times = [c.time_to(GOAL) for c in found]
        median = float(np.median(times))
        ends = [float(c.share[-1]) if len(c.share) else 0.0 for c in found]
        lines.append(
            f"| {name} | {np.mean(area[name]):.3f} | {_ahead(area, name, 'random')} "
            f"| {_ahead(area, 'portfolio', name)} "
            f"| {f'{median:.0f}' if np.isfinite(median) else f'> {horizon:.0f}'} "
            f"| {np.mean(np.isfinite(times)):.0%} | {np.mean(ends):.3f} |"
        )
    return "\n".join(lines)


def _ahead(area: dict[str, list[float]], one: str, other: str) -> str:
    """The mean difference of two policies, paired by seed, with its 95 % interval."""
    if one == other or one not in area:
        return ""
    gain = paired_bootstrap_ci(
        area[one], area[other], statistic=lambda a, b: float((a - b).mean()), seed=0
    )
    return f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def plot(curves: dict[str, list[Curve]], horizon: float, path: Path) -> None:
    """Mean share covered against seconds, with the middle half of the seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    times = np.linspace(0, horizon, 300)
    for name, found in curves.items():
        shares = np.array([c.at(times) for c in found])
        (line,) = axes.plot(times, shares.mean(axis=0), label=name)
        low, high = np.quantile(shares, [0.25, 0.75], axis=0)
        axes.fill_between(times, low, high, alpha=0.12, color=line.get_color(), linewidth=0)
    axes.axhline(GOAL, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="seconds of trials", ylabel="share of the table's hypervolume", ylim=(0, 1))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def compare(options: argparse.Namespace) -> None:
    """Replay all policies, print the table, write table and figure."""
    curves: dict[str, list[Curve]] = {}
    horizon = 0.0
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = {
            name: pool.submit(
                replays,
                name,
                options.replay,
                options.check or options.replay,
                options.seeds,
                options.episodes,
            )
            for name in dict.fromkeys((*options.policies, "random"))
        }
        for name, job in jobs.items():
            curves[name], horizon = job.result()
    table = Table.read(options.replay)
    text = summary(curves, horizon)
    print(
        f"{len(table.by_hash)} strategies, {options.seeds} seeds, budget of {horizon:.0f} s "
        f"(the mean price of {options.episodes} trials)\n\n{text}"
    )
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "search.md").write_text(text + "\n")
        plot(curves, horizon, options.out / "search.png")


def main(arguments: list[str] | None = None) -> None:
    """Build or replay."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--build", type=Path, metavar="TABLE", help="make or complete a table")
    task.add_argument("--replay", type=Path, metavar="TABLE", help="compare policies on a table")
    parser.add_argument("--model", default="demo", help="demo, or a model folder")
    parser.add_argument("--strategies", type=int, default=1000, help="at most so many")
    parser.add_argument("--data", default="pydoc", help="text source")
    parser.add_argument("--check", type=Path, help="table of the same strategies to judge by")
    parser.add_argument("--policies", nargs="+", default=list(policies.BUILTIN))
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--episodes", type=int, default=40, help="trials whose mean price is spent")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for search.md and search.png")
    options = parser.parse_args(arguments)
    if options.replay is not None:
        compare(options)
        return
    from search_table import build

    build(options.build, model=options.model, data=options.data, count=options.strategies)


if __name__ == "__main__":
    main()
