"""From a table of settings to a command that has an option for each of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel

from paredown.cli import complete
from paredown.cli.table import NESTED, Setting, Table, put
from paredown.language import LANGUAGES, Language, preferred
from paredown.spec.option import OTHER

if TYPE_CHECKING:
    from paredown.store.experiment import ExperimentRecord

C = TypeVar("C", bound=BaseModel)
Lang = Annotated[
    str | None,
    typer.Option(
        "--lang",
        metavar="|".join(LANGUAGES),
        help="Language of what people read. [default: the experiment's, else the locale's, else "
        "English]",
        show_default=False,
    ),
]
"""The option of commands that show an experiment."""


def language_of(record: ExperimentRecord, asked: str | None) -> Language:
    """The language in which an experiment is shown.

    Raises:
        ConfigError: `asked` is none of ours.
    """
    return preferred(asked if asked is not None else record.config.lang)


def parameters(table: Table[Any]) -> list[inspect.Parameter]:
    """Parameters for typer, one per setting; each is None where the user did not say it."""
    return [
        inspect.Parameter(
            NESTED.join(setting.path),
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=_annotation(setting),
        )
        for setting in table.settings
    ]


def _annotation(setting: Setting) -> Any:
    shown: dict[str, Any] = {
        "help": _with_default(setting),
        "show_default": False,  # the text has it: typer only knows that nothing was said
        "rich_help_panel": setting.panel,
        "autocompletion": complete.function(setting.option.complete, setting.words),
    }
    if not setting.flags:
        return Annotated[str | None, typer.Argument(metavar=setting.metavar, **shown)]
    if setting.is_switch:
        return Annotated[bool | None, typer.Option(*setting.flags, **shown)]
    option = typer.Option(*setting.flags, metavar=setting.metavar, **shown)
    # Texts, whatever the field's type: its class reads and refuses them as it does a file's.
    return (
        Annotated[list[str] | None, option]
        if setting.option.repeat
        else (Annotated[str | None, option])
    )


def _with_default(setting: Setting) -> str:
    # Where the words say what None means, "none" would only repeat them.
    is_said = setting.default == "none" and "None" in setting.help
    shown = setting.default and not is_said
    return f"{setting.help} [default: {setting.default}]" if shown else setting.help


def given(table: Table[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What the user said, nested as in a file.

    Args:
        table: of the command.
        values: by parameter; None and empty lists were not said.
    """
    found: dict[str, Any] = {}
    for setting in table.settings:
        value = values.get(NESTED.join(setting.path))
        if value is None or value == []:
            continue
        if isinstance(value, list):
            texts = [setting.read(text) for text in value]
            put(found, setting.path, texts[0] if len(texts) == 1 else texts)
        else:
            put(found, setting.path, setting.read(value) if isinstance(value, str) else value)
    return found


def with_settings(
    kind: type[C], *, env_prefix: str, argument: str | None = None, panel: str = OTHER
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a function of a config into a command that has an option for each of its fields.

    The function's first parameter takes the config; its others are options as typer knows them.

    Args:
        kind: class of the config.
        env_prefix: begins the names of its environment variables.
        argument: a field that is said without an option's name.
        panel: heading of the fields that name none.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        table = Table.of(kind, env_prefix, argument=argument, panel=panel)
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def command(**values: Any) -> None:
            from paredown.cli.settings import read_settings

            file = values.pop("config")
            own_values = {parameter.name: values.pop(parameter.name) for parameter in own}
            function(read_settings(table, given(table, values), file), **own_values)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.table = table  # type: ignore[attr-defined]  # for the reference page
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [*parameters(table), *own, _CONFIG]
        )
        return command

    return decorate


_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="YAML or JSON file with settings; the environment and options win over it.",
        ),
    ],
)
