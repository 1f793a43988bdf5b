"""What a command line comes to, without a new process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from paredown.cli import main
from paredown.cli.help import PanelCommand, plain_app
from paredown.cli.options import with_settings


@dataclass(frozen=True)
class Said:
    """Exit code and both streams of a command line."""

    code: int
    out: str
    err: str


def say(capsys: pytest.CaptureFixture[str], *words: str) -> Said:
    """Run `paredown WORDS` in this process."""
    old, sys.argv = sys.argv, ["paredown", *words]
    capsys.readouterr()
    try:
        with pytest.raises(SystemExit) as end:
            main.main()
    finally:
        sys.argv = old
    shown = capsys.readouterr()
    return Said(int(end.value.code or 0), shown.out, shown.err)


def parse(kind: type[BaseModel], env_prefix: str, words: list[str], **more: Any) -> Any:
    """The config that a command of `kind` is given for these words; errors are raised."""
    seen: list[BaseModel] = []

    def command(request: BaseModel) -> None:
        seen.append(request)

    app = plain_app(add_completion=False)
    made: Callable[..., None] = with_settings(kind, env_prefix=env_prefix, **more)(command)
    app.command(cls=PanelCommand)(made)
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return seen[0]
