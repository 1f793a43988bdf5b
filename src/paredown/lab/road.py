"""The guided road: four stages, each redone only when what it depends on has changed, and a report.

It has no way of its own of doing anything: matching, predicting, running, deploying and checking
are those of the commands that are called so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from paredown.artifact.source import locate
from paredown.coordinate.setup import open_base
from paredown.errors import ConfigError, did_you_mean
from paredown.hardware.detect import detect
from paredown.lab import analysis, checkpoints, deployment, design, implementation
from paredown.lab.advice import Advice, Case, advise
from paredown.lab.checkpoints import (
    STAGES,
    Analysis,
    Checkpoint,
    Deployment,
    Design,
    Implementation,
    Stage,
    changed,
)
from paredown.lab.context import Lab, Teller
from paredown.lab.pages import html, markdown
from paredown.lab.report import Story, report
from paredown.lab.sentences import Words
from paredown.language import preferred
from paredown.methods import registry
from paredown.runtimes.registry import engine
from paredown.spec.infer import infer_spec
from paredown.spec.lab import LabConfig
from paredown.spec.located import read_record
from paredown.store.atomic import require_writable, write_text
from paredown.store.experiment import lock

REPORTS = ("engineering_report.md", "engineering_report.html")
C = TypeVar("C", bound=Checkpoint)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Where a lab has come to.

    Attributes:
        advice: None while a stage is still to come.
        reports: the files that were written.
        headline: of the report, in its language.
    """

    folder: Path
    advice: Advice | None = None
    reports: tuple[Path, ...] = ()
    headline: str = ""


def run_lab(
    config: LabConfig,
    folder: Path,
    *,
    file: Path = Path("lab.yaml"),
    only: Stage | None = None,
    teller: Teller | None = None,
) -> Outcome:
    """Go the road as far as it goes; what is done and still true is kept.

    Args:
        config: the request.
        folder: where checkpoints, experiment, package and reports are; made if need be.
        file: that the request was read from, for the commands of the report.
        only: redo this stage alone; those before it must be there.

    Raises:
        ConfigError: the request or an edited checkpoint is wrong; with file, line and field.
        KeyboardInterrupt: the user has stopped it; what was finished is kept.
    """
    folder = folder.absolute()
    check(config)
    require_writable(folder)
    handle = lock(folder)
    try:
        road = _Road(_open(config, folder, teller or Teller()), only)
        road.go()
        return _reported(road, file)
    finally:
        os.close(handle)


def check(config: LabConfig) -> None:
    """See what can be seen before a model is fetched: names of strategies, engine and data.

    Raises:
        ConfigError: naming what is wrong and the nearest that would do.
    """
    for text in config.strategies:
        registry.canonical(text)
    engine(config.constraints.runtime)
    config.run_config(1)


def read_config(path: Path) -> LabConfig:
    """The request in a YAML (or JSON) file.

    Raises:
        ConfigError: with line and field.
    """
    return read_record(LabConfig, path)


def stage_named(word: str) -> Stage:
    """The stage of this name, or number from 1.

    Raises:
        ConfigError: there is none; the nearest.
    """
    for number, stage in enumerate(STAGES, 1):
        if word in {stage, str(number)}:
            return stage
    raise ConfigError(f"--stage {word[:40]!r}: no such stage; {did_you_mean(word[:40], STAGES)}")


def _open(config: LabConfig, folder: Path, teller: Teller) -> Lab:
    with teller.job() as watch:

        def tell(share: float, message: str) -> None:
            watch("check", share, message)

        place = locate(config.model, tell)
        base = open_base(config.model, place, infer_spec(place, name=config.model), tell)
    return Lab(config=config, folder=folder, base=base, machine=detect(), teller=teller)


class _Road:
    """The stages of one lab, in order; what has been passed is at hand."""

    def __init__(self, lab: Lab, only: Stage | None) -> None:
        self.lab, self.only = lab, only
        self.analysis: Analysis | None = None
        self.design: Design | None = None
        self.made: Implementation | None = None
        self.deployment: Deployment | None = None

    def go(self) -> None:
        """Pass every stage, or the one that was named."""
        lab = self.lab
        first = self._pass(
            Analysis, lambda: analysis.depends_on(lab), lambda: analysis.analyse(lab)
        )
        self.analysis = first
        if first is None:
            return
        second = self._pass(
            Design, lambda: design.depends_on(lab, first), lambda: design.design(lab, first)
        )
        self.design = second
        if second is None:
            return
        third = self._pass(
            Implementation,
            lambda: implementation.depends_on(lab, second),
            lambda: implementation.implement(lab, second),
        )
        if third is None:
            return
        self.made = made = self._asked(third)
        self.deployment = self._pass(
            Deployment,
            lambda: deployment.depends_on(lab, made),
            lambda: deployment.prepare_deployment(lab, made),
        )

    def _asked(self, made: Implementation) -> Implementation:
        """The stage, with limits and answers of the result that it names: its file may be edited.

        Raises:
            ConfigError: of the episode that it names nothing was kept.
        """
        implementation.artifact_of(self.lab, made)
        if made.asked == made.episode:
            return made
        made = implementation.ask_again(self.lab, made)
        checkpoints.write(self.lab.folder, made)
        return made

    def _pass(
        self, kind: type[C], depends_on: Callable[[], dict[str, str]], make: Callable[[], C]
    ) -> C | None:
        """A stage that stands, or is made now; None where it is not there and not to be made."""
        lab, stage = self.lab, kind.stage
        is_only = self.only == stage
        if self.only is not None and not is_only:
            is_before = STAGES.index(stage) < STAGES.index(self.only)
            return (
                checkpoints.require(lab.folder, kind)
                if is_before
                else checkpoints.read(lab.folder, kind)
            )
        found = checkpoints.read(lab.folder, kind)
        differs = () if found is None else changed(found.made_from, depends_on())
        if found is not None and not differs and not is_only:
            lab.teller.keep(stage)
            return found
        why = f"changed: {', '.join(differs)}" if differs else "asked for" if found else ""
        lab.teller.begin(stage, why)
        made = make()
        checkpoints.write(lab.folder, made)
        return made


def _reported(road: _Road, file: Path) -> Outcome:
    """The report, where the road has been gone to its end."""
    from paredown import __version__

    lab = road.lab
    found = (road.analysis, road.design, road.made, road.deployment)
    first, second, third, fourth = found
    if first is None or second is None or third is None or fourth is None:
        return Outcome(folder=lab.folder)
    case = Case(config=lab.config, analysis=first, made=third, deployment=fourth)
    story = Story(case=case, design=second, folder=lab.folder, file=file, version=__version__)
    language = preferred(lab.config.lang)
    document = report(story, language)
    files = tuple(lab.folder / name for name in REPORTS)
    for path, text in zip(files, (markdown(document), html(document)), strict=True):
        write_text(path, text)
    advice, result = advise(case), case.result
    words = Words(language)
    label = words("base") if result is None or result.episode == 0 else result.label
    return Outcome(
        folder=lab.folder, advice=advice, reports=files,
        headline=words(f"verdict_{advice.verdict}", strategy=label),
    )  # fmt: skip
