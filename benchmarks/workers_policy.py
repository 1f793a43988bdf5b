"""The part `policy` of `workers.py`: many workers on recorded trials, and what the driver takes."""

from __future__ import annotations

import heapq
import statistics
import time
from dataclasses import dataclass, replace
from itertools import count, islice, product
from pathlib import Path
from typing import Any

import numpy as np
from common import table
from search import OBJECTIVES, budget_of

from paredown.analysis.statistics import paired_bootstrap_ci
from paredown.search.base import Budget, Policy
from paredown.search.cost import spent
from paredown.search.policies import registry as policies
from paredown.search.replay import Table, curve, replay, whole
from paredown.spec.result import TrialResult
from paredown.spec.strategy import Step, Strategy
from paredown.spec.target import Limits

DATA = Path(__file__).parent / "data"
WORKERS, TRIALS = 64, 160
POLICIES = ("portfolio", "surrogate", "random")


@dataclass(frozen=True)
class Simulated:
    """A run of many workers on a table, by the table's prices."""

    results: tuple[TrialResult, ...]
    hours: float
    """Of the clock, by the table's prices."""
    proposing_s: float
    """Of this process, for all proposals."""


def simulate(
    policy: Policy, recorded: Table, space: Any, *, workers: int, seconds: float
) -> Simulated:
    """Spend `seconds` of trials, side by side; what ends later is not known when others begin."""
    clock, left, proposing = 0.0, seconds, 0.0
    results, number = [recorded.baseline], count()
    running: list[tuple[float, int, Any]] = []
    ended = False
    while True:
        free = workers - len(running)
        if free and not ended:
            start = time.perf_counter()
            pending = [decision for _, _, decision in sorted(running, key=lambda r: r[1])]
            decisions = policy.propose_batch(
                results, space, Limits(), budget=Budget(episodes_left=len(recorded.by_hash)),
                count=free, pending=pending,
            )  # fmt: skip
            proposing += time.perf_counter() - start
            for decision in decisions:
                if decision.strategy is None:
                    ended = True
                    break
                price = spent(recorded.by_hash[decision.strategy.hash])
                if price > left:
                    ended = True
                    break
                left -= price
                heapq.heappush(running, (clock + price, next(number), decision))
        if not running:
            return Simulated(tuple(results), clock / 3600, proposing)
        clock, _, decision = heapq.heappop(running)
        found = recorded.by_hash[decision.strategy.hash]
        told = {"episode": len(results), "proposed_by": decision.policy}
        results.append(found.model_copy(update=told))


def show_policy(*, seeds: int, history: int) -> None:
    """Print quality at equal cost, and seconds of the driver."""
    rows: list[tuple[str, ...]] = [
        ("policy", "trials", "covered, 1 worker", f"{WORKERS} workers", "difference [95 %]",
         "ms per proposal"),
    ]  # fmt: skip
    recorded = Table.read(DATA / "search-demo.json.gz")
    space, limits = recorded.space, Limits()
    best = whole(recorded, OBJECTIVES, limits)
    seconds = budget_of(recorded, TRIALS)
    for name in POLICIES:
        one, many, per, trials = [], [], [], 0
        for seed in range(seeds):
            policy = policies.create(name, seed=seed, objectives=OBJECTIVES)
            alone = replay(
                policy, recorded, space=space, episodes=len(recorded.by_hash), seconds=seconds,
                limits=limits,
            )  # fmt: skip
            crowd = simulate(policy, recorded, space, workers=WORKERS, seconds=seconds)
            one.append(curve(alone, OBJECTIVES, limits, whole=best).share[-1])
            many.append(curve(crowd.results, OBJECTIVES, limits, whole=best).share[-1])
            trials = len(crowd.results) - 1
            per.append(1e3 * crowd.proposing_s / trials)
        gap = paired_bootstrap_ci(
            np.array(many), np.array(one), statistic=lambda a, b: float((a - b).mean()), seed=0
        )
        rows.append(
            (name, str(trials), f"{np.mean(one):.4f}", f"{np.mean(many):.4f}",
             f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]", f"{statistics.median(per):.0f}")
        )  # fmt: skip
    print(f"policy: {len(recorded.by_hash)} recorded trials, {seeds} seeds, equal cost of {TRIALS} "
          f"trials' mean price")  # fmt: skip
    print(table(rows))
    print()
    show_driver(recorded, history)


def show_driver(recorded: Table, history: int) -> None:
    """Print what one more proposal takes behind so many trials."""
    space, past = crowded(recorded, history)
    rows: list[tuple[str, ...]] = [("policy", "trials behind", "ms per proposal (median of 5)")]
    for name in POLICIES:
        policy = policies.create(name, seed=0, objectives=OBJECTIVES)
        taken = []
        for turn in range(6):
            seen = past[: len(past) - 5 + turn]
            start = time.perf_counter()
            policy.propose_batch(seen, space, Limits(), budget=Budget(episodes_left=100), count=1)
            taken.append(time.perf_counter() - start)
        # The first pays for what is remembered of a space.
        rows.append((name, str(len(past) - 1), f"{1e3 * statistics.median(taken[1:]):.0f}"))
    print(table(rows))


def crowded(recorded: Table, trials: int) -> tuple[Any, list[TrialResult]]:
    """A space of a tenth more strategies than trials, made by giving those of the table further
    group sizes and bits, and so many trials of it, each measured as the one it was made from."""
    space = recorded.space
    size = -(-trials * 11 // 10)
    found: dict[str, tuple[Strategy, TrialResult]] = {}
    for number, result in product(range(1, 1 + size), recorded.trials):
        if len(found) == size:
            break
        if result.strategy is None:
            continue
        first, *others = result.strategy.steps
        varied = Step(method=first.method, params={**first.params, "seed_of_benchmark": number})
        made = Strategy(steps=(varied, *others))
        found[made.hash] = (made, result)
    sizes = {h: recorded.predicted_bytes[r.strategy.hash] for h, (_, r) in found.items()
             if r.strategy is not None}  # fmt: skip
    larger = replace(space, by_hash={h: made for h, (made, _) in found.items()}, sizes=sizes)
    past = [
        result.model_copy(update={"strategy": made, "episode": episode, "label": str(made)})
        for episode, (made, result) in enumerate(islice(found.values(), trials), 1)
    ]
    return larger, [recorded.baseline, *past]
