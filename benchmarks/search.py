"""Search policies compared on a recorded table of real trials.

The table is expensive and made once; it holds what a run would have measured of each strategy.
Policies are then replayed on it, many seeds each, with equal space, prices and budget: how much of
the table's hypervolume is covered after how many seconds of trials.

    python benchmarks/search.py --build benchmarks/data/search-demo.json.gz
    python benchmarks/search.py --replay benchmarks/data/search-demo.json.gz --out DIR

A build that was stopped goes on where it was. A second table of the same model with other held-out
text (`--data`), given as `--check`, shows how much of the gain was luck: the searches see the
first, and are judged on the second.

`--cold A B` shows what the first trials find on each of two tables with what is known of the other
model (`search_cold.py`), and `--live MODEL --out DIR` what they find on a real one:

    python benchmarks/search.py --cold benchmarks/data/search-{demo,sibling}.json.gz --seeds 20
    python benchmarks/search.py --live demo --out DIR

`--record FILE` has the local LLM lead on the table and keeps its answers, which `--policies
portfolio+FILE@1` replays.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paredown.analysis.statistics import paired_bootstrap_ci
from paredown.artifact.source import locate
from paredown.coordinate.memory import INFORMED
from paredown.judge.hypervolume import covered
from paredown.search.base import Policy
from paredown.search.cost import spent
from paredown.search.knowledge import Knowledge, anchors, effects
from paredown.search.policies import registry as policies
from paredown.search.policies.portfolio import ADVISOR_PROMISE, Arm
from paredown.search.replay import Curve, Table, curve, replay, whole
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.result import TrialResult
from paredown.spec.run import LlmConfig, Objective
from paredown.spec.target import Limits

OBJECTIVES: tuple[Objective, ...] = ("quality", "size")
GOAL = 0.95
PATIENCE = 2.0
"""A policy that has not reached the goal after so many budgets never does, but for `random` and
`grid`, which are cheap to replay to the end."""
REFERENCE = "portfolio"
SHARE = LlmConfig().share
"""Of an advisor whose share is not given."""


@dataclass(frozen=True)
class Run:
    """One replayed search.

    Attributes:
        curve: its progress; goes on beyond the budget until `GOAL` or `PATIENCE` is reached.
        advised: share of the seconds within the budget that went into trials of the LLM's arm.
    """

    curve: Curve
    advised: float


def contender(
    name: str, table: Table, *, seed: int, folder: Path, knowledge: Knowledge | None = None
) -> Policy:
    """A policy by its name; `portfolio+greedy` is one with an advisor as a capped arm,
    `portfolio+greedy@0.6` with that share, and in `portfolio+greedy@1` the advisor leads."""
    plain, _, advised = name.partition("+")
    told = knowledge if plain in INFORMED else None
    if not advised:
        return policies.create(plain, seed=seed, objectives=OBJECTIVES, knowledge=told)
    from search_advisors import advisor as advisor_called
    from search_advisors import advisor_policy

    advisor, _, given = advised.partition("@")
    share = float(given or SHARE)
    answer = advisor_called(advisor, table, seed=seed)
    first = () if told is None or share < 1 else told.anchors
    policy = advisor_policy(
        answer, seed=seed, spec=spec_of(table), folder=folder, share=share, first=first
    )
    if share >= 1:
        return policies.create(
            plain, seed=seed, objectives=OBJECTIVES, knowledge=told, leader=policy
        )
    arm = Arm(policy=policy, cap=share, promise=ADVISOR_PROMISE)
    return policies.create(plain, seed=seed, objectives=OBJECTIVES, knowledge=told, arms=(arm,))


def spec_of(table: Table) -> ModelSpec:
    """Of the table's model: as recorded, else read again."""
    if "spec" in table.about:
        return ModelSpec.model_validate(table.about["spec"])
    name = table.about["settings"]["model"]
    return infer_spec(locate(name), name=name)


def replays(
    name: str, path: Path, check: Path, seeds: range, episodes: int, *, informed: bool = False
) -> list[Run]:
    """One policy, seed by seed; `informed`: with what the package knows of other models."""
    table, judge = Table.read(path), Table.read(check)
    space, limits, horizon = table.space, Limits(), budget_of(table, episodes)
    best, best_seen = (whole(t, OBJECTIVES, limits) for t in (judge, table))
    knowledge = None
    if informed:
        first = anchors(space, limits, episodes=episodes)
        knowledge = Knowledge(anchors=first, effects=effects())
    most = np.inf if name in {"random", "grid"} else PATIENCE * horizon

    def enough(results: Sequence[TrialResult]) -> bool:
        seconds = sum(spent(r) for r in results[1:])
        reached = covered(results, OBJECTIVES, limits) >= GOAL * best_seen
        return seconds >= most or (seconds >= horizon and reached)

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            policy = contender(name, table, seed=seed, folder=Path(folder), knowledge=knowledge)
            results = replay(
                policy, table, space=space, episodes=episodes, seconds=None, limits=limits,
                enough=enough,
            )  # fmt: skip
            progress = curve(_judged(results, judge), OBJECTIVES, limits, whole=best)
            inside = int((progress.seconds <= horizon).sum())
            found.append(Run(progress, _advised(results, inside)))
    return found


def budget_of(table: Table, episodes: int) -> float:
    """Seconds that a search has: the mean price of so many trials."""
    return episodes * float(np.mean([trial.wall_s for trial in table.trials]))


def _advised(results: Sequence[TrialResult], count: int) -> float:
    """Share of the first trials' seconds that went into those of the LLM's arm."""
    trials = results[1 : count + 1]
    mine = sum(spent(r) for r in trials if (r.proposed_by or "").endswith(":llm"))
    return mine / sum(map(spent, trials))


def _judged(results: tuple[TrialResult, ...], judge: Table) -> list[TrialResult]:
    """The same trials as the other table has them, at the prices that were paid."""
    return [judge.baseline] + [
        judge.by_hash[r.strategy.hash].model_copy(update={"episode": r.episode, "wall_s": r.wall_s})
        for r in results
        if r.strategy is not None
    ]


def summary(runs: dict[str, list[Run]], horizon: float) -> str:
    """A markdown table; differences to the portfolio are paired by seed."""
    lines = [
        "| policy | mean share covered | behind the portfolio by | covered at the end "
        f"| seconds to {GOAL:.0%} (median) | over random's | cost of the LLM's arm |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    area = {name: [r.curve.area(horizon) for r in found] for name, found in runs.items()}
    times = {name: [r.curve.time_to(GOAL) for r in found] for name, found in runs.items()}
    for name, found in sorted(runs.items(), key=lambda item: -float(np.mean(area[item[0]]))):
        ends = [float(r.curve.at(np.array([horizon]))[0]) for r in found]
        advised = [r.advised for r in found]
        cost = f"{np.mean(advised):.0%} (at most {max(advised):.0%})" if "+" in name else ""
        lines.append(
            f"| {name} | {np.mean(area[name]):.3f} | {_behind(area, name)} | {np.mean(ends):.3f} "
            f"| {_seconds(float(np.median(times[name])))} | {_over_random(times, name)} | {cost} |"
        )
    return "\n".join(lines)


def _seconds(value: float) -> str:
    return f"{value:.0f}" if np.isfinite(value) else "never"


def _behind(area: dict[str, list[float]], name: str) -> str:
    """The portfolio's mean lead, paired by seed, with its 95 % interval."""
    if name == REFERENCE or REFERENCE not in area:
        return ""
    gain = paired_bootstrap_ci(
        area[REFERENCE], area[name], statistic=lambda a, b: float((a - b).mean()), seed=0
    )
    return f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def _over_random(times: dict[str, list[float]], name: str) -> str:
    """Median seconds to the goal over random's, paired by seed, with its 95 % interval."""
    if name == "random" or "random" not in times:
        return ""
    most = 1e3 * max(t for found in times.values() for t in found if np.isfinite(t))
    mine, theirs = (np.minimum(times[n], most) for n in (name, "random"))
    ratio = paired_bootstrap_ci(
        mine, theirs, statistic=lambda a, b: float(np.median(a) / np.median(b)), seed=0
    )
    shown = [f"{x:.2f}" if x < 100 else "never" for x in (ratio.value, ratio.low, ratio.high)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def plot(runs: dict[str, list[Run]], horizon: float, path: Path) -> None:
    """Mean share covered against seconds, with the middle half of the seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    times = np.linspace(0, horizon, 300)
    for name in (n for n in runs if "+" not in n):
        shares = np.array([r.curve.at(times) for r in runs[name]])
        # Dashed and on top: it lies on the line of whichever policy it relies on.
        style: dict[str, Any] = {"linestyle": "--", "zorder": 3} if name == REFERENCE else {}
        (line,) = axes.plot(times, shares.mean(axis=0), label=name, **style)
        low, high = np.quantile(shares, [0.25, 0.75], axis=0)
        axes.fill_between(times, low, high, alpha=0.12, color=line.get_color(), linewidth=0)
    axes.axhline(GOAL, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="seconds of trials", ylabel="share of the table's hypervolume", ylim=(0.5, 1))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def compare(options: argparse.Namespace) -> None:
    """Replay all policies, print the table, write table and figure."""
    check = options.check or options.replay
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    names = list(dict.fromkeys((*options.policies, "random")))
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = {
            name: pool.submit(
                replays,
                name,
                options.replay,
                check,
                seeds,
                options.episodes,
                informed=options.informed,
            )
            for name in names
        }
        runs = {name: job.result() for name, job in jobs.items()}
    table = Table.read(options.replay)
    horizon = budget_of(table, options.episodes)
    text = summary(runs, horizon)
    print(
        f"{len(table.by_hash)} strategies, {options.seeds} seeds, budget of {horizon:.0f} s "
        f"(the mean price of {options.episodes} trials)\n\n{text}"
    )
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "search.md").write_text(text + "\n")
        plot(runs, horizon, options.out / "search.png")


def record(options: argparse.Namespace) -> None:
    """Have the local LLM lead on the table, and keep what it says; `--episodes` answers a seed."""
    from search_recording import recordings

    table = Table.read(options.replay)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    runs = recordings(table, spec_of(table), seeds, episodes=options.episodes)
    options.record.write_text(json.dumps({"runs": runs}, indent=1) + "\n")


def show_cold(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Print what the first trials find."""
    import search_cold

    if options.cold:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        print(search_cold.report(options.cold, seeds))
        return
    if options.out is None:
        parser.error("--live needs --out DIR, where its experiments are kept")
    print(search_cold.live(options.live, options.out, search_cold.SMALL))


def main(arguments: list[str] | None = None) -> None:
    """Build or replay."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--build", type=Path, metavar="TABLE", help="make or complete a table")
    task.add_argument("--replay", type=Path, metavar="TABLE", help="compare policies on a table")
    task.add_argument("--cold", type=Path, nargs=2, metavar="TABLE", help="the first trials")
    task.add_argument("--live", metavar="MODEL", help="the first trials on a real model; --out DIR")
    parser.add_argument("--model", default="demo", help="demo, or a model folder")
    parser.add_argument("--strategies", type=int, default=1000, help="at most so many")
    parser.add_argument("--data", default="pydoc", help="text source")
    parser.add_argument("--check", type=Path, help="table of the same strategies to judge by")
    parser.add_argument(
        "--policies", nargs="+", default=list(policies.BUILTIN),
        help="also with an advisor as in portfolio+greedy, or portfolio+greedy@1 where it leads: "
        "expert, greedy, thrifty, random, fool, constant, malformed, or a file of recorded answers",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=40, help="trials whose mean price is spent")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for search.md and search.png")
    parser.add_argument(
        "--informed", action="store_true",
        help="begin with what the package knows of other models, as a run does",
    )  # fmt: skip
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep a local LLM's answers")
    options = parser.parse_args(arguments)
    if options.cold or options.live:
        show_cold(options, parser)
        return
    if options.record is not None and options.replay is not None:
        record(options)
        return
    if options.replay is not None:
        compare(options)
        return
    from search_table import build

    build(options.build, model=options.model, data=options.data, count=options.strategies)


if __name__ == "__main__":
    main()
