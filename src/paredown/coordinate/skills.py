"""Skills: what experiments leave behind, and what a new one on a similar model starts from."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from paredown.analysis.hypervolume import hypervolume
from paredown.errors import StrategyError
from paredown.judge.limits import breaks
from paredown.judge.quality import share_kept
from paredown.judge.quantities import QUANTITIES, bounds
from paredown.methods import registry
from paredown.report.findings import find
from paredown.search.base import Remembered
from paredown.search.index import genome
from paredown.search.space import Space
from paredown.spec.model import ModelSpec
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.serial import content_hash, plain
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits
from paredown.store.experiment import ExperimentRecord
from paredown.store.skills import Evidence

WARM_SHARE = 0.2
"""At most this share of a run's episodes is given to skills before the search begins."""
DEMOTED = 0.4
"""A skill that is trusted less is not started from."""
REMEMBERED = 200
"""Most strategies whose effects a search is told."""
HOPELESS = ("diverged", "screened")
"""Failures that lie in the strategy; a lack of time or memory lies in the machine."""
SIZE_DECADES = 1.5
"""Models of a family are similar up to this many powers of ten between their sizes."""


@final
@dataclass(frozen=True, kw_only=True)
class Skill:
    """What is known of one strategy in one family of models.

    Attributes:
        id: short, for the command line.
        family: of the models.
        strategy: canonical.
        rows: its evidence, oldest first, at least one.
    """

    id: str
    family: str
    strategy: Strategy
    rows: tuple[Evidence, ...]

    @property
    def held(self) -> int:
        """Experiments in which it was on the final front and within the limits."""
        return sum(row.worked for row in self.rows)

    @property
    def trust(self) -> float:
        """Chance that it holds up the next time: (held + 1) / (all + 2).

        Source: Laplace's rule of succession.
        """
        return (self.held + 1) / (len(self.rows) + 2)

    @property
    def demoted(self) -> bool:
        """Whether it is no longer started from, because it has not held up."""
        return self.held == 0 or self.trust < DEMOTED

    @property
    def n(self) -> int:
        """Independent samples behind its effect."""
        return sum(row.n for row in self.rows)

    def effect(self, name: str) -> float | None:
        """Median over the evidence of `perplexity_ratio`, `compression_ratio` or `speedup`."""
        values = [v for row in self.rows if (v := getattr(row, name)) is not None]
        return float(np.median(values)) if values else None

    def kept(self, qualities: Sequence[str]) -> float | None:
        """Share kept of the named qualities, the mean over them of the median over the evidence;
        None where one was never measured, or none is named."""
        found = [[row.kept[name] for row in self.rows if name in row.kept] for name in qualities]
        return float(np.mean([np.median(each) for each in found])) if all(found) and found else None

    @property
    def label(self) -> str:
        """The strategy for people; methods that are not installed are shown as they are."""
        try:
            return registry.label(self.strategy)
        except StrategyError:
            return str(self.strategy)


def learn(record: ExperimentRecord) -> tuple[Evidence, ...]:
    """What an experiment teaches: one row per strategy that was tried, failures included."""
    findings, baseline = find(record), record.baseline
    if baseline is None or baseline.status != "ok":
        return ()
    now = round(time.time(), 3)
    asked = record.config.limits
    limits = {bound.limit.read or bound.limit.field: bound.value for bound in bounds(asked)}
    experiment = content_hash([record.run.get("model"), plain(record.config.limits),
                               record.name, record.run.get("device")])  # fmt: skip
    rows = []
    for result in record.trials:
        if result.strategy is None:
            continue
        rows.append(
            Evidence(
                experiment=experiment,
                name=record.name[:200],
                model=Path(record.config.model).name[:200] or "model",
                family=_family(record.spec),
                parameters=record.spec.parameters,
                device=str(record.run.get("device", "cpu")),
                limits=limits,
                strategy=result.strategy,
                worked=findings.findings.holds(result),
                failure=None if result.failure is None else result.failure.kind.value,
                perplexity_ratio=_over(result, baseline, "perplexity"),
                compression_ratio=result.value("compression_ratio"),
                speedup=result.value("speedup"),
                kept=_kept(result),
                n=_samples(result),
                time=now,
            )
        )
    return tuple(rows)


def skills_of(evidence: Iterable[Evidence]) -> tuple[Skill, ...]:
    """Evidence put together by family and strategy; the most trusted first."""
    groups: dict[str, list[Evidence]] = {}
    for row in evidence:
        groups.setdefault(row.skill, []).append(row)
    skills = [
        Skill(id=key, family=rows[0].family, strategy=rows[0].strategy, rows=tuple(rows))
        for key, rows in groups.items()
    ]
    return tuple(sorted(skills, key=lambda skill: (-skill.trust, skill.id)))


def transferable(skills: Sequence[Skill], spec: ModelSpec) -> tuple[Skill, ...]:
    """Skills of the model's family, from models of a similar size."""
    near = []
    for skill in skills:
        sizes = [row.parameters for row in skill.rows]
        away = min(abs(math.log10(size / spec.parameters)) for size in sizes)
        if skill.family == _family(spec) and away <= SIZE_DECADES:
            near.append(skill)
    return tuple(near)


def warm_start(
    skills: Sequence[Skill],
    space: Space,
    limits: Limits,
    *,
    episodes: int,
    qualities: Sequence[str] = (),
) -> tuple[Strategy, ...]:
    """Strategies to try first: those of skills that together promise most, best first.

    Taken greedily by what each adds to the hypervolume of the effects remembered, times its
    trust; no more than `WARM_SHARE` of the episodes, and none that is expected to break a limit.
    One that this space does not have is replaced by the nearest with the same methods.

    Args:
        qualities: what counts as quality (`RunConfig.named_qualities`): a limit bounds their loss
            where the evidence has it, else that of the text.
    """
    rows: dict[str, tuple[Strategy, tuple[float, ...], float]] = {}
    for skill in skills:
        place = _place(skill)
        if skill.demoted or place is None or _breaks(skill, limits, qualities):
            continue
        here = _in_space(skill.strategy, space)
        # Several skills may have one nearest strategy here: the most trusted stands for it.
        if here is not None and (here.hash not in rows or rows[here.hash][2] < skill.trust):
            rows[here.hash] = (here, place, skill.trust)
    return _greedy(list(rows.values()), max(1, math.floor(episodes * WARM_SHARE)))


def remembered(
    skills: Sequence[Skill], device: str, qualities: Sequence[str] = ()
) -> tuple[Remembered, ...]:
    """What the search is told of earlier experiments: the effects of all strategies, good or bad,
    those learned last first. Speed counts where it was measured on such a device. `qualities`: as
    in `warm_start`."""
    latest = sorted(skills, key=lambda skill: -max(row.time for row in skill.rows))
    found = []
    for skill in latest[:REMEMBERED]:
        quality = skill.effect("perplexity_ratio")
        speeds = [row.speedup for row in skill.rows if row.speedup and row.device == device]
        over: dict[Objective, float] = {}
        if quality is not None:
            over["quality"] = quality
        if speeds:
            over["latency"] = 1 / float(np.median(speeds))
        failed = all(row.failure in HOPELESS for row in skill.rows)
        if over or failed:
            kept = skill.kept(qualities)
            found.append(Remembered(strategy=skill.strategy, over=over, kept=kept, failed=failed))
    return tuple(found)


def lines(skills: Sequence[Skill], count: int) -> tuple[str, ...]:
    """Skills with their evidence, for the LLM: what worked, and what did not. Only strategies of
    methods known here; nothing that other people wrote."""
    found = []
    for skill in skills[:count]:
        failures = {row.failure for row in skill.rows if row.failure}
        effects = ", ".join(
            f"{short} {value:.2f}"
            for short, name in (("perplexity/base", "perplexity_ratio"),
                                ("ratio", "compression_ratio"), ("speed", "speedup"))
            if (value := skill.effect(name)) is not None
        )  # fmt: skip
        verdict = f"held in {skill.held} of {len(skill.rows)}"
        failed = f", failed: {' '.join(sorted(failures))}" if failures else ""
        found.append(f"{skill.label[:110]}: {effects or 'no effect'} ({verdict}{failed})")
    return tuple(found)


def _family(spec: ModelSpec) -> str:
    return (spec.family if spec.family != "unknown" else spec.model_type)[:60] or "unknown"


def _over(result: TrialResult, baseline: TrialResult, name: str) -> float | None:
    mine, base = result.value(name), baseline.value(name)
    return mine / base if mine and base else None


def _kept(result: TrialResult) -> dict[str, float]:
    shares = {score.name: share_kept(score) for score in result.scores}
    found = {name: share.value for name, share in shares.items() if share and share.value > 0}
    kl = result.get("kl")
    return found if kl is None else {**found, "kl": math.exp(-kl.value)}


def _samples(result: TrialResult) -> int:
    found = result.get("perplexity")
    return 0 if found is None else found.n


def _place(skill: Skill) -> tuple[float, ...] | None:
    """Its effect on the axes of the search: 0 at the best end, 1 at the worst."""
    quality, ratio = skill.effect("perplexity_ratio"), skill.effect("compression_ratio")
    if quality is None or ratio is None:
        return None
    # A speed that nobody has measured counts as that of the base.
    speed = skill.effect("speedup") or 1.0
    costs: dict[Objective, float] = {"quality": quality, "size": 1 / ratio, "latency": 1 / speed}
    place = []
    for name, cost in costs.items():
        axis = QUANTITIES[name]
        low, high = math.log(axis.best), math.log(axis.worst)
        place.append((math.log(cost) - low) / (high - low))
    return tuple(place)


def _breaks(skill: Skill, limits: Limits, qualities: Sequence[str]) -> bool:
    """Whether its effect breaks a limit that does not depend on the model's size."""
    effects, kept = _effects(skill), skill.kept(qualities)
    if kept is None:
        return breaks(effects, limits)
    return breaks({**effects, "quality": 1 / kept}, limits, named=True)


def _effects(skill: Skill) -> dict[Objective, float]:
    """What it did to each quantity that was measured, over the base's."""
    found: dict[Objective, float] = {}
    for name, quantity in QUANTITIES.items():
        effect = skill.effect(quantity.paired) if quantity.paired in Evidence.model_fields else None
        if effect:
            found[name] = 1 / effect if quantity.inverted else effect
    return found


def _in_space(strategy: Strategy, space: Space) -> Strategy | None:
    if strategy in space:
        return strategy
    known = registry.names()
    if any(step.method not in known for step in strategy.steps):
        return None
    return space.nearest(genome(strategy), space.__contains__)


def _greedy(
    rows: list[tuple[Strategy, tuple[float, ...], float]], count: int
) -> tuple[Strategy, ...]:
    chosen: list[Strategy] = []
    front: list[tuple[float, ...]] = []
    corner = np.ones(3)  # the worst end of each axis
    while rows and len(chosen) < count:
        covered = hypervolume(front, corner) if front else 0.0
        gains = [(hypervolume([*front, place], corner) - covered) * trust
                 for _, place, trust in rows]  # fmt: skip
        best = int(np.argmax(gains))
        if gains[best] <= 1e-9:  # nothing is left that those chosen do not cover
            break
        strategy, place, _ = rows.pop(best)
        chosen.append(strategy)
        front.append(place)
    return tuple(chosen)
