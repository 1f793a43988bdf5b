"""Search policies compared on a recorded table of real trials.

The table is expensive and made once; it holds what a run would have measured of each strategy.
Policies are then replayed on it, many seeds each, with equal space, prices and budget: how much of
the table's hypervolume is covered after how many seconds of trials.

    python benchmarks/search.py --build benchmarks/data/search-demo.json.gz --strategies 300
    python benchmarks/search.py --replay benchmarks/data/search-demo.json.gz --out DIR

A build that was stopped goes on where it was. A second table of the same model with other held-out
text (`--data`), given as `--check`, shows how much of the gain was luck: the searches see the
first, and are judged on the second.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from paredown.analysis.statistics import paired_bootstrap_ci
from paredown.search import policies
from paredown.search.replay import Curve, Table, curve, replay, whole
from paredown.spec.result import TrialResult
from paredown.spec.run import CalibrationConfig, EvaluateConfig, RunConfig
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits

if TYPE_CHECKING:
    from paredown.coordinate.setup import Plan
    from paredown.pipeline.trial import Bench
    from paredown.search.space import Space

OBJECTIVES = ("quality", "size", "latency")
GOAL = 0.95
REUSED = "its time is not counted"  # the note of a trial that began with the result of another


def choose(space: Space, count: int) -> list[Strategy]:
    """Half single methods, in the order of the space; half pipelines that begin with one of
    them, spread evenly over the sequences of methods. A beginning is tried before what follows."""
    singles = [s for s in space.strategies if len(s.steps) == 1]
    chosen = singles[: max(count // 2, 1)]
    beginnings = {s.steps[0].model_dump_json() for s in chosen}
    by_methods: dict[tuple[str, ...], list[Strategy]] = {}
    for strategy in space.strategies:
        if len(strategy.steps) == 2 and strategy.steps[0].model_dump_json() in beginnings:
            names = tuple(step.method for step in strategy.steps)
            by_methods.setdefault(names, []).append(strategy)
    templates = list(by_methods.values())
    Random(0).shuffle(templates)
    return [*chosen, *islice(_in_turns(templates), count - len(chosen))]


def _in_turns(sources: list[list[Strategy]]) -> Iterator[Strategy]:
    for turn in range(max(map(len, sources), default=0)):
        yield from (source[turn] for source in sources if turn < len(source))


def build(path: Path, config: RunConfig, count: int) -> None:
    """Run what is missing of the table, as an experiment would, one trial after the other."""
    from paredown.coordinate.setup import prepare
    from paredown.pipeline.executor import LocalExecutor
    from paredown.pipeline.trial import Bench

    plan = prepare(config)
    strategies = choose(plan.space, count)
    with LocalExecutor() as executor, tempfile.TemporaryDirectory() as scratch:
        bench = Bench(
            base=plan.base, text=plan.text, calibration=config.calibration,
            evaluate=config.evaluate, device=plan.target.device, seed=config.seed,
            executor=executor,
        )  # fmt: skip
        table = _start(path, plan, bench, Path(scratch))
        for number, strategy in enumerate(strategies, start=1):
            if strategy.hash in table.by_hash:
                continue
            print(f"{number} of {len(strategies)}: {strategy}", file=sys.stderr, flush=True)
            found = _trial(bench, strategy, Path(scratch) / str(number), number, table)
            table.by_hash[strategy.hash] = found
            table.predicted_bytes[strategy.hash] = plan.space.predicted_bytes[strategy.hash]
            table.write(path)


def _start(path: Path, plan: Plan, bench: Bench, scratch: Path) -> Table:
    """The table so far; a new one begins with the baseline."""
    from paredown.models.description import library_versions
    from paredown.pipeline import trial
    from paredown.spec.serial import plain

    settings = plain(plan.config) | {"model_sha256": plan.base.hash}
    if path.exists():
        table = Table.read(path)
        if table.about["settings"] != settings:
            raise SystemExit(f"{path} was built with other settings: choose another file")
        return table
    folder = scratch / "baseline"
    folder.mkdir()
    about = {
        "settings": settings,
        "versions": {**library_versions(), "python": platform.python_version()},
        "cpus": os.cpu_count(),
    }
    baseline = trial.measure(bench, None, folder, episode=0, timeout_s=3600)
    table = Table(about=about, baseline=baseline, by_hash={}, predicted_bytes={})
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write(path)
    return table


def _trial(
    bench: Bench, strategy: Strategy, folder: Path, number: int, table: Table
) -> TrialResult:
    """One trial; its price is in full even where its beginning was there from another trial."""
    from paredown.pipeline import trial

    folder.mkdir()
    artifact = folder / "artifact"
    built = trial.build(bench, strategy, folder, artifact, timeout_s=4 * 3600)
    found = trial.measure(
        bench, strategy, folder, episode=number, timeout_s=3600, built=built,
        baseline=table.baseline,
    )  # fmt: skip
    trial.discard(artifact)
    first = table.by_hash.get(Strategy(steps=strategy.steps[:1]).hash)
    saved = first.compress_s if first and any(REUSED in note for note in found.notes) else 0.0
    return found.model_copy(
        update={
            "artifact": None,
            "compress_s": found.compress_s + saved,
            "wall_s": found.wall_s + saved,
        }
    )


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
        f"| policy | mean share covered | over random | seconds to {GOAL:.0%} (median) | "
        f"reached | covered at the end |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    area = {name: [c.area(horizon) for c in found] for name, found in curves.items()}
    for name, found in sorted(curves.items(), key=lambda item: -float(np.mean(area[item[0]]))):
        times = [c.time_to(GOAL) for c in found]
        median = float(np.median(times))
        gain = paired_bootstrap_ci(
            area[name], area["random"], statistic=lambda a, b: float((a - b).mean()), seed=0
        )
        ends = [float(c.share[-1]) if len(c.share) else 0.0 for c in found]
        over = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        lines.append(
            f"| {name} | {np.mean(area[name]):.3f} | {over if name != 'random' else ''} "
            f"| {f'{median:.0f}' if np.isfinite(median) else f'> {horizon:.0f}'} "
            f"| {np.mean(np.isfinite(times)):.0%} | {np.mean(ends):.3f} |"
        )
    return "\n".join(lines)


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
    parser.add_argument("--strategies", type=int, default=300)
    parser.add_argument("--methods", nargs="+", help="only these methods")
    parser.add_argument("--data", default="pydoc", help="text source: train part, evaluation part")
    parser.add_argument("--eval-tokens", type=int, default=2048)
    parser.add_argument("--calibration-samples", type=int, default=16)
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
    config = RunConfig(
        model=options.model,
        data=options.data,
        methods=options.methods and tuple(options.methods),
        evaluate=EvaluateConfig(tokens=options.eval_tokens),
        calibration=CalibrationConfig(samples=options.calibration_samples),
        objectives=OBJECTIVES,
    )
    build(options.build, config, options.strategies)


if __name__ == "__main__":
    main()
