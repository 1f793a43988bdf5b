"""`paredown skills`: what past experiments taught, and how to forget or share it. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paredown.cli.help import plain_app
from paredown.report.escape import one_line

if TYPE_CHECKING:
    from paredown.coordinate.skills import Skill
    from paredown.store.skills import SkillStore

skills = plain_app(
    name="skills",
    help="What past experiments taught: list, show, forget, export, import.",
    add_completion=False,
)


@skills.callback(invoke_without_command=True)
def _group(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


Where = Annotated[
    Path | None, typer.Option("--skills", help="The file; default: in the user's data folder.")
]

File = Annotated[Path, typer.Argument(help="JSON file.")]


@skills.command("list")
def list_(
    family: Annotated[str | None, typer.Option(help="Only of this family of models.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
    where: Where = None,
) -> None:
    """All skills, the most trusted first."""
    import json

    store = _store(where)
    found = [s for s in _read(store) if family is None or s.family == family]
    if as_json:
        print(json.dumps([_document(skill) for skill in found], indent=2))
        return
    if not found:
        print(f"no skills yet in {store.path}")
        return
    from rich.table import Table

    from paredown.report.console import make_console

    table = Table("id", "family", "strategy", "perplexity", "ratio", "speed", "held", "n")
    for skill in found:
        held = f"{skill.held} of {len(skill.rows)}" + (" (demoted)" if skill.demoted else "")
        ratio, speed = _times(skill, "compression_ratio"), _times(skill, "speedup")
        family, label = _plain(skill.family), _plain(skill.label)
        table.add_row(skill.id, family, label, _percent(skill), ratio, speed, held, str(skill.n))
    make_console().print(table)


@skills.command()
def show(skill_id: Annotated[str, typer.Argument(metavar="ID")], where: Where = None) -> None:
    """One skill with its evidence."""
    from datetime import UTC, datetime

    skill = _one(_store(where), skill_id)
    state = "demoted: it has not held up" if skill.demoted else "a new experiment may start from it"
    print(f"{skill.id}  {_plain(skill.label)}  on {_plain(skill.family)}")
    print(f"trust {skill.trust:.2f} ({state})")
    for row in skill.rows:
        day = datetime.fromtimestamp(row.time, UTC).date()
        outcome = "held" if row.worked else (f"failed ({row.failure})" if row.failure else "beaten")
        effect = " ".join(
            f"{name}={value:.3g}"
            for name in ("perplexity_ratio", "compression_ratio", "speedup")
            if (value := getattr(row, name)) is not None
        )
        print(
            f"  {day}  {_plain(row.name)}: {_plain(row.model)} ({row.parameters:,} parameters, "
            f"{_plain(row.device)}): {outcome}; {effect} n={row.n}"
        )


@skills.command()
def forget(
    skill_id: Annotated[str | None, typer.Argument(metavar="ID")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Forget all skills.")] = False,
    where: Where = None,
) -> None:
    """Delete a skill with its evidence, or all of them."""
    from paredown.errors import ConfigError

    if (skill_id is None) != everything:
        raise ConfigError("which skill? give its ID (see paredown skills list), or --all")
    store = _store(where)
    wanted = None if skill_id is None else _one(store, skill_id).id
    print(f"forgot {store.forget(wanted)} results")


@skills.command("export")
def export(file: File, where: Where = None) -> None:
    """Write all evidence to a JSON file."""
    print(f"wrote {_store(where).export(file)} results to {file}")


@skills.command("import")
def import_(file: File, where: Where = None) -> None:
    """Add the evidence of an exported file; what is there already is not counted twice."""
    print(f"added {_store(where).take(file)} new results")


def _store(where: Path | None) -> SkillStore:
    from paredown.store.skills import SkillStore, default_path

    return SkillStore(where or default_path())


def _read(store: SkillStore) -> tuple[Skill, ...]:
    from paredown.coordinate.skills import skills_of

    return skills_of(store.evidence())


def _one(store: SkillStore, skill_id: str) -> Skill:
    from paredown.errors import ConfigError, did_you_mean

    found = {skill.id: skill for skill in _read(store)}
    if skill_id not in found:
        raise ConfigError(f"no skill has the id {skill_id!r}; {did_you_mean(skill_id, found)}")
    return found[skill_id]


def _document(skill: Skill) -> dict[str, object]:
    from paredown.spec.serial import plain

    effects = ("perplexity_ratio", "compression_ratio", "speedup")
    return {
        "id": skill.id,
        "family": skill.family,
        "strategy": plain(skill.strategy),
        "label": skill.label,
        "held": skill.held,
        "experiments": len(skill.rows),
        "trust": round(skill.trust, 4),
        "demoted": skill.demoted,
        "n": skill.n,
        **{name: skill.effect(name) for name in effects},
    }


def _percent(skill: Skill) -> str:
    value = skill.effect("perplexity_ratio")
    return "-" if value is None else f"{100 * (value - 1):+.1f} %"


def _times(skill: Skill, name: str) -> str:
    value = skill.effect(name)
    return "-" if value is None else f"{value:.2f}x"


def _plain(text: str) -> str:
    """Words of imported files, which may hold anything."""
    return one_line(text)[:200]
