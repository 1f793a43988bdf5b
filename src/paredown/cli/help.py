"""Help in plain text, grouped: what most users set comes first.

typer's own boxes are drawn by rich, whose Markdown reader alone takes longer to import than all
the rest of `paredown --help`.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any, ClassVar, final

import typer
from typer.core import TyperCommand, TyperGroup

from paredown.cli.words import translated
from paredown.spec.option import COMMON, LIMITS, in_order

OWN = "This command"
"""Panel of a command's own options, which are no settings."""


@final
class PanelCommand(TyperCommand):
    """A command whose help groups its options by panel, and that reads others' words as well."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read a command line, after words of other tools were put into ours."""
        known = {*options_of(self.params), *ctx.help_option_names}
        first = any(p.param_type_name == "argument" and p.name == "model" for p in self.params)
        left: list[str] = super().parse_args(ctx, translated(args, known, takes_model_first=first))
        return left

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the panels: the common one, the command's own, and the rest as they come."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                # typer writes the type behind an argument's name, where it says nothing new.
                said = record[0].replace(" <str>", "").replace(" <path>", "")
                panel = getattr(parameter, "rich_help_panel", None) or OWN
                panels.setdefault(panel, []).append((said, record[1]))
        for title in in_order([COMMON, LIMITS, OWN, *panels]):
            if title in panels:
                with formatter.section("Options" if len(panels) == 1 else title):
                    formatter.write_dl(panels[title])


class LazyGroup(TyperGroup):
    """The commands of the program, each imported when it is asked for.

    Attributes:
        table: name -> module, attribute, and what the command does, in the order of the help.
    """

    table: ClassVar[dict[str, tuple[str, str, str]]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, or None."""
        if cmd_name not in self.table:
            return None
        module, attribute, _ = self.table[cmd_name]
        found = getattr(import_module(module), attribute)
        # A command is a function, or a group of several.
        return typer.main.get_command(found if isinstance(found, typer.Typer) else _app(found))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands from the table: nothing has to be imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, _, words) in self.table.items()])


def plain_app(**settings: Any) -> typer.Typer:
    """An application with plain help, and errors that leave it as exceptions."""
    return typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        **settings,
    )


def _app(function: Any) -> typer.Typer:
    app = plain_app(add_completion=False)
    app.command(cls=PanelCommand)(function)
    return app


def options_of(parameters: Iterable[Any]) -> list[str]:
    """All option names of a command's parameters."""
    return [name for p in parameters for name in (*p.opts, *p.secondary_opts)]
