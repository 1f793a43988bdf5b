"""`paredown lab`: the guided road from a model to a package and a report."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paredown.lab.context import Teller
from paredown.language import LANGUAGES

if TYPE_CHECKING:
    from rich.console import Console

    from paredown.coordinate.state import Listener
    from paredown.lab.checkpoints import Stage
    from paredown.lab.road import Outcome
    from paredown.spec.lab import LabConfig
    from paredown.spec.progress import StageProgress
    from paredown.spec.run import RunConfig

_TITLES: dict[Stage, str] = {
    "analysis": "analysis and baseline",
    "design": "strategy design",
    "implementation": "implementation",
    "deployment": "deployment preparation",
}


_OF_A_SEARCH = ("coordinator", "agenda")
"""Events that tell how a search will choose: here it was chosen the stage before."""


def lab(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="YAML with the model and its constraints.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR",
            help="Folder of the lab. [default: data/labs/NAME-OF-FILE]",
        ),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Redo one stage alone: analysis, design, implementation, "
            "deployment, or its number.",
        ),
    ] = None,
    lang: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(LANGUAGES),
            help="Language of the report; else that of the file, else the locale's.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:  # fmt: skip
    """Go the guided road: analysis, strategy design, implementation, deployment preparation.

    FILE names a model and constraints (max_memory_gb, max_accuracy_loss, min_speedup,
    deployment_target). Each stage leaves a JSON file that may be edited; a stage is done again only
    when something that it depends on has changed, so the same command resumes, too. At the end
    stand a package and engineering_report.md and .html.
    """
    from paredown.lab.road import read_config, run_lab, stage_named
    from paredown.report.console import make_console

    config = read_config(file)
    if lang is not None:
        config = _in_language(config, lang)
    folder = output or Path("data/labs") / file.stem
    only = None if stage is None else stage_named(stage)
    console = make_console(stderr=as_json)
    again = shlex.join(["paredown", "lab", str(file), *(["-o", str(output)] if output else [])])
    try:
        found = run_lab(config, folder, file=file, only=only, teller=LabProgress(console))
    except KeyboardInterrupt:
        typer.echo(f"interrupted; what was finished is kept. To go on: {again}", err=True)
        raise typer.Exit(130) from None
    if as_json:
        from paredown.spec.serial import readable

        print(readable(_document(found)), end="")
        return
    for line in _lines(found, again):
        console.print(line, soft_wrap=True)


def _in_language(config: LabConfig, lang: str) -> LabConfig:
    from paredown.spec.explain import checked

    return checked(type(config), {**config.model_dump(), "lang": lang})


class LabProgress(Teller):
    """A line per stage, and below it what `paredown run` and the other commands show."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def begin(self, stage: Stage, why: str) -> None:
        because = f"  ({why})" if why else ""
        self.console.print(f"{_numbered(stage)}{because}", style="bold", soft_wrap=True)

    def keep(self, stage: Stage) -> None:
        self.console.print(f"{_numbered(stage)}: stands, nothing has changed", soft_wrap=True)

    @contextmanager
    def experiment(self, config: RunConfig) -> Iterator[Listener]:
        from paredown.report.live import RunProgress

        with RunProgress(self.console, config.episodes, config.objectives) as progress:
            yield lambda event, fields: None if event in _OF_A_SEARCH else progress(event, fields)

    @contextmanager
    def job(self) -> Iterator[StageProgress]:
        from paredown.report.live import StepProgress

        with StepProgress(self.console) as progress:
            yield progress.watch


def _numbered(stage: Stage) -> str:
    from paredown.lab.checkpoints import STAGES

    return f"stage {STAGES.index(stage) + 1} of {len(STAGES)}: {_TITLES[stage]}"


def _document(found: Outcome) -> dict[str, Any]:
    from paredown.spec.serial import SCHEMA_VERSION

    return {
        "schema_version": SCHEMA_VERSION,
        "folder": str(found.folder),
        "verdict": None if found.advice is None else found.advice.verdict,
        "headline": found.headline or None,
        "reports": [str(path) for path in found.reports],
    }


def _lines(found: Outcome, again: str) -> list[str]:
    if found.advice is None:
        return [f"the stage is done; {again} goes on"]
    return ["", found.headline, *(f"report: {path}" for path in found.reports)]
