"""Where an experiment meets the skills: at its start, and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from paredown.coordinate.setup import Prepared
from paredown.coordinate.skills import Skill, learn, remembered, skills_of, warm_start
from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.search.aim import PLANNER, aims
from paredown.search.base import Remembered
from paredown.search.knowledge import Knowledge, anchors, effects
from paredown.spec.run import RunConfig
from paredown.spec.serial import plain
from paredown.spec.strategy import Strategy
from paredown.store.events import read_events
from paredown.store.experiment import Experiment, read_experiment
from paredown.store.skills import SkillStore, default_path

STARTED_FROM = "skills"
"""The event that says which skills a run tries first."""
KNOWN = "knowledge"
"""The event that says what a run starts from that is known of other models."""
INFORMED = ("portfolio", "surrogate")
"""Policies that begin with what is known; who names another one gets just that."""


@final
@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a run begins with, and reckons with, that is known of other models.

    Attributes:
        start: strategies from the user's own earlier experiments, to try first.
        remembered: what strategies did there.
        knowledge: what the package knows; None for a policy that is to go its own way.
        aimed: plans for the size or the loss that the user has asked for, with their reasons.
    """

    start: tuple[Strategy, ...]
    remembered: tuple[Remembered, ...]
    knowledge: Knowledge | None
    aimed: tuple[tuple[Strategy, str], ...] = ()

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """Everything to be tried first, once each."""
        anchored = () if self.knowledge is None else self.knowledge.anchors
        aimed = (strategy for strategy, _ in self.aimed)
        return tuple({s.hash: s for s in (*aimed, *self.start, *anchored)}.values())

    def lines(self) -> tuple[str, ...]:
        """The package's part, for one who decides what is tried first: a line per strategy."""
        if self.knowledge is None:
            return ()
        found = []
        effects = {effect.strategy.hash: effect for effect in self.knowledge.effects}
        for strategy in self.knowledge.anchors:
            effect = effects.get(strategy.hash)  # none where a group size was adapted to the model
            over = None if effect is None else effect.over.get("quality")
            told = "" if over is None else f", median perplexity/base there {over:.3f}"
            found.append(f"{registry.label(strategy)}: a usual first trial on other models{told}")
        return tuple(found)


def beginning(prepared: Prepared, experiment: Experiment, known: tuple[Skill, ...]) -> Beginning:
    """What this experiment begins with, given the skills known for such models."""
    start, told = known_before(prepared, experiment, known)
    return Beginning(
        start=start,
        remembered=told,
        knowledge=known_elsewhere(prepared, experiment),
        aimed=asked_for(prepared),
    )


def asked_for(prepared: Prepared) -> tuple[tuple[Strategy, str], ...]:
    """The plans to begin with for the size or the loss that was asked for, with their reasons."""
    found = []
    for aim in aims(prepared.config.limits, prepared.base.spec):
        if aim.is_first and PLANNER in registry.names():
            strategy = registry.for_runtime(aim.strategy, prepared.target.runtime)
            if strategy in prepared.space:
                found.append((strategy, aim.reason))
    return tuple(found)


def skill_store(config: RunConfig) -> SkillStore | None:
    """The skill memory that a run uses, if any."""
    return SkillStore(config.skills_file or default_path()) if config.skills else None


def known_before(
    prepared: Prepared, experiment: Experiment, known: tuple[Skill, ...]
) -> tuple[tuple[Strategy, ...], tuple[Remembered, ...]]:
    """What to try first, and what to reckon with, from the skills known for such models.

    Written down when the experiment begins and read back when it goes on, so that a resumed run
    proposes what the uninterrupted one would have, whatever was learned meanwhile.
    """
    for event in read_events(experiment.events.path):
        if event["event"] == STARTED_FROM:
            return (
                tuple(Strategy.model_validate(item) for item in event["start"]),
                tuple(Remembered.model_validate(item) for item in event.get("remembered", ())),
            )
    config = prepared.config
    named = config.named_qualities
    start = warm_start(
        known, prepared.space, config.limits, episodes=config.episodes, qualities=named
    )
    seen = remembered(known, prepared.target.device, named)
    if config.skills:
        told = {"start": plain(start), "remembered": plain(seen)}
        experiment.events.add(STARTED_FROM, known=len(known), **told)
    return start, seen


def known_elsewhere(prepared: Prepared, experiment: Experiment) -> Knowledge | None:
    """What the package knows of other models, as far as it fits this one; None where a policy
    was asked for that is to go its own way. Written down and read back, as above."""
    if prepared.config.policy not in INFORMED:
        return None
    for event in read_events(experiment.events.path):
        if event["event"] == KNOWN:
            return Knowledge(
                anchors=tuple(Strategy.model_validate(item) for item in event["anchors"]),
                effects=tuple(Remembered.model_validate(item) for item in event["effects"]),
            )
    config, named = prepared.config, prepared.config.named_qualities
    first = anchors(prepared.space, config.limits, episodes=config.episodes, qualities=named)
    found = Knowledge(anchors=first, effects=effects(named))
    told = {"anchors": plain(found.anchors), "effects": plain(found.effects)}
    experiment.events.add(KNOWN, **told)
    return found


def remember(folder: Path, store: SkillStore | None) -> None:
    """Keep what the experiment taught; that this fails must not cost the user the experiment."""
    if store is None:
        return
    experiment = Experiment(folder)
    try:
        before = _demoted(store)
        count = store.add(learn(read_experiment(folder)))
        demoted = [label for key, label in _demoted(store).items() if key not in before]
    except ConfigError as error:
        experiment.events.add("not_remembered", reason=str(error))
    else:
        experiment.events.add("remembered", new=count, demoted=demoted)


def _demoted(store: SkillStore) -> dict[str, str]:
    """Labels of the skills that once held and are no longer started from, by id."""
    skills = skills_of(store.evidence())
    return {skill.id: skill.label for skill in skills if skill.demoted and skill.held}
