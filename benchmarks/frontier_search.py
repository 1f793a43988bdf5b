"""How many evaluations TPE and NSGA-II need for the curve that plans have, on the same bank.

All see the same: a plan is judged by its bytes and by its KL on one window of training text that
calibrated nothing, measured in memory. TPE and NSGA-II (Optuna's) choose an option for each unit;
plans are those along the curve of the forecast. What counts is the hypervolume in the logarithms of
bytes and KL, within the sizes and the KLs of the curve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from paredown.analysis.hypervolume import hypervolume
from paredown.analysis.pareto import pareto_mask
from paredown.blocks.comparison import Comparison
from paredown.spec.scheme import Scheme

if TYPE_CHECKING:
    from frontier import Ground, Kept

WORST_KL = 3.0
"""Nats per token: beyond it nothing counts."""
FEW = 15
"""Plans after which the others' best is to be reached."""


def search(kept: Kept, ground: Ground, plans: Mapping[str, Any], evaluations: int) -> None:
    """Whatever is missing of the three searches."""
    from frontier import schemes_of

    choices = ground.frontier.choices
    tokens = ground.frontier._fresh_tokens[:1]
    base = Comparison(ground.source, tokens, device="cpu")
    bank = ground.frontier.bank

    def judge(schemes: Mapping[str, Scheme]) -> list[float]:
        """(bytes, KL)."""
        inner = {n: s for n, s in schemes.items() if n in bank.layers.names}
        outer = {n: bank.embeddings(n, s) for n, s in schemes.items() if n not in inner}
        kl = base.kl(layers=lambda block: bank.layers.rounded(block, inner), embeddings=outer)
        found = {name: schemes.get(name) for u in choices.units for name in u.unit.layers}
        nbytes = choices.fixed + sum(
            u.nbytes[u.schemes.index(found[u.unit.layers[0]])] for u in choices.units
        )
        return [nbytes, kl]

    ours = sorted(plans, key=float)
    kept.put("search interval", list(choices.interval))
    _grow(kept, "search ours", len(ours), lambda i: judge(schemes_of(plans[ours[i]])))
    for name in ("tpe", "nsga2"):
        study = _study(name)
        for turn in range(evaluations):
            asked = study.ask()
            places = [
                asked.suggest_int(f"u{i}", 0, len(u.schemes) - 2)
                for i, u in enumerate(choices.units)
            ]
            done = kept.found.get(f"search {name} trials", [])
            # What was seen in an earlier session is told again: the same seed asks the same.
            if turn == len(done):
                seen = judge(choices.schemes(places))
                kept.put(f"search {name} trials", [*done, {"places": places, "seen": seen}])
                print(name, turn + 1, f"{seen[0] / 1e6:.1f} MB, KL {seen[1]:.4f}", flush=True)
            elif done[turn]["places"] != places:
                raise SystemExit(f"{name}: trial {turn} was of another sampler; use another --out")
            else:
                seen = done[turn]["seen"]
            study.tell(asked, [math.log(seen[0]), math.log(min(seen[1], WORST_KL))])


def _grow(kept: Kept, name: str, count: int, judge: Any) -> None:
    while len(done := kept.found.get(name, [])) < count:
        kept.put(name, [*done, judge(len(done))])


def _study(name: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler: optuna.samplers.BaseSampler = (
        optuna.samplers.TPESampler(seed=0)
        if name == "tpe"
        else optuna.samplers.NSGAIISampler(seed=0, population_size=20)
    )
    return optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)


def show(found: Mapping[str, Any]) -> None:
    """The hypervolume after so many evaluations, as a share of what all plans cover."""
    ours = found["search ours"]
    least, most = found["search interval"]
    best = min(kl for _, kl in ours)

    def volume(points: Sequence[Sequence[float]]) -> float:
        places = np.array(
            [
                [
                    math.log(nbytes / least) / math.log(most / least),
                    math.log(max(kl, best) / best) / math.log(WORST_KL / best),
                ]
                for nbytes, kl in points
                if kl < WORST_KL
            ]
        ).reshape(-1, 2)
        places = places[pareto_mask(places)] if len(places) else places
        return hypervolume(places, np.ones(2)) if len(places) else 0.0

    whole = volume(ours)
    few = _spread(ours, FEW)
    print(f"\nhypervolume as a share of that of {len(ours)} plans: {len(few)} of them "
          f"{volume(few) / whole:.3f}", end="")  # fmt: skip
    for name in ("tpe", "nsga2"):
        seen = [trial["seen"] for trial in found.get(f"search {name} trials", [])]
        if seen:
            print(f"; {name} after {len(seen)} evaluations {volume(seen) / whole:.3f}", end="")
    print()


def _spread(points: Sequence[Any], count: int) -> list[Any]:
    """So many of them, evenly along."""
    places = np.linspace(0, len(points) - 1, min(count, len(points))).round().astype(int)
    return [points[i] for i in places]
