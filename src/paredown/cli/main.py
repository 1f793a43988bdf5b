"""`paredown`: commands, and how errors leave the program."""

from __future__ import annotations

import logging
import sys

import typer

from paredown.cli.analyze import analyze
from paredown.cli.compress import compress
from paredown.cli.evaluate import evaluate
from paredown.cli.methods import methods
from paredown.cli.run import run
from paredown.cli.skills import skills
from paredown.cli.spec import spec

app = typer.Typer(
    name="paredown",
    help="Find the compressed versions of a language model that are worth having, "
    "and prove each one with measurements.",
    epilog="Start with: paredown run -m demo --episodes 6",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (run, spec, compress, evaluate, analyze, methods):
    app.command()(command)
app.add_typer(skills)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what happens to stderr."),
) -> None:
    if version:
        from paredown import __version__

        print(f"paredown {__version__}")
        raise typer.Exit
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")


def main() -> None:
    """Run the command line; deliberate errors become one line and exit code 2 (or 1)."""
    from paredown.errors import ConfigError, ParedownError

    try:
        app()
    except ConfigError as error:
        sys.exit(_complain(error, 2))
    except ParedownError as error:
        sys.exit(_complain(error, 1))


def _complain(error: Exception, code: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code
