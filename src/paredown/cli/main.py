"""`paredown`: commands, and how errors leave the program."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, final

import typer

from paredown.cli.help import LazyGroup, options_of, plain_app
from paredown.errors import ConfigError, ParedownError
from paredown.report.escape import one_line

# `click.ClickException`, which typer carries under another name since 0.29: the class above
# `UsageError`, above `BadParameter`, the only one of them that typer has always exported.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]


@final
class _Commands(LazyGroup):
    table = {  # noqa: RUF012 - a class variable, declared as one in the base
        "run": (
            "paredown.cli.run", "run",
            "Search for the compressed versions of a model that are worth having.",
        ),
        "spec": (
            "paredown.cli.spec", "spec",
            "Show what is known of a model: parameters, sizes, memory, and what to try.",
        ),
        "match": (
            "paredown.cli.match", "match",
            "Find the hardware for a model: memory, number, speed, energy and cost.",
        ),
        "predict": (
            "paredown.cli.predict", "predict",
            "Say what strategies would bring before any of them runs, with intervals.",
        ),
        "compress": (
            "paredown.cli.compress", "compress",
            "Compress a model with one strategy, and prove that the artifact reloads.",
        ),
        "prune": (
            "paredown.cli.prune", "prune",
            "Prune a model, in the words of the pruning papers' scripts.",
        ),
        "front": (
            "paredown.cli.front", "front",
            "Show what a model loses at every size, with bits chosen matrix by matrix.",
        ),
        "plan": (
            "paredown.cli.plan", "plan",
            "Show what a plan gives to each layer, or how two plans differ.",
        ),
        "evaluate": (
            "paredown.cli.evaluate", "evaluate",
            "Measure a model: benchmarks, perplexity, KL to its base, latency, memory, size.",
        ),
        "lab": (
            "paredown.cli.lab", "lab",
            "Go the guided road: from a model to a package and a report, stage by stage.",
        ),
        "deploy": (
            "paredown.cli.deploy", "deploy",
            "Make a package of an artifact for an engine, and prove it there.",
        ),
        "serve": (
            "paredown.cli.serve", "serve",
            "Serve a package behind its engine's own OpenAI-compatible server.",
        ),
        "check": (
            "paredown.cli.check", "check",
            "Look whether a served model, or a package, is ready.",
        ),
        "bench": (
            "paredown.cli.bench", "bench",
            "Load-test a server or a package, or two in turns.",
        ),
        "analyze": (
            "paredown.cli.analyze", "analyze",
            "Show what an experiment found: recommendation, front, failures, cost.",
        ),
        "report": (
            "paredown.cli.report", "report",
            "Write or print the report of an experiment, finished or not.",
        ),
        "export": (
            "paredown.cli.export", "export",
            "Show an experiment in MLflow, finished or not.",
        ),
        "resume": (
            "paredown.cli.resume", "resume",
            "Go on with an experiment; its folder holds the request.",
        ),
        "steer": (
            "paredown.cli.steer", "steer",
            "Ask something of a run that goes on, from another terminal or machine.",
        ),
        "dashboard": (
            "paredown.cli.dashboard", "dashboard",
            "Look at experiments in the browser while they go on, and steer them.",
        ),
        "methods": (
            "paredown.cli.methods", "methods", "List the compression methods, or explain one.",
        ),
        "runtimes": (
            "paredown.cli.runtimes", "runtimes",
            "List the engines that artifacts are made for, or explain one.",
        ),
        "skills": (
            "paredown.cli.skills", "skills",
            "What past experiments taught: list, show, forget, export, import.",
        ),
    }  # fmt: skip


app = plain_app(
    name="paredown",
    cls=_Commands,
    help="Find the compressed versions of a language model that are worth having, "
    "and prove each one with measurements.",
    epilog="Start with: paredown run -m demo --episodes 6",
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", "-V", help="Show the version and exit."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what happens to stderr."),
) -> None:
    if version:
        from paredown import __version__

        print(f"paredown {__version__}")
        raise typer.Exit
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> NoReturn:
    """Run the command line; deliberate errors become one line and exit code 2 (or 1)."""
    sys.exit(_run())


def _run() -> int:
    try:
        # Not in typer's standalone mode: there it draws its own errors, in another style.
        return typer.main.get_command(app).main(prog_name="paredown", standalone_mode=False) or 0
    except ConfigError as error:
        return _complain(str(error), 2)
    except ParedownError as error:
        return _complain(str(error), 1)
    except _ClickError as error:
        return _complain(_usage(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 130)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        logging.getLogger(__name__).info("refused by the system", exc_info=True)  # with --verbose
        return _complain(_of_the_system(error), 1)


def _complain(message: str, code: int) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr)
    return code


def _usage(error: Any) -> str:
    """What typer refuses, in our words: where, what, and the nearest that would do."""
    context, message = error.ctx, error.format_message().rstrip(".")
    if context is None:  # an option without its value, which the parser meets without a context
        return f"{message[:1].lower()}{message[1:]}"
    where = context.command_path
    if message.startswith("No such option"):
        word, known = error.option_name, options_of(context.command.params)
        return f"{where}: no option {word}; {_hint(word, known, where)}"
    if message.startswith("No such command"):
        # A group that knows its commands has typer's own suggestion behind the word.
        word = message.partition("'")[2].partition("'")[0]
        known = context.command.list_commands(context)
        return f"{where}: no command {word!r}; {_hint(word, known, where)}"
    return f"{where}: {message[:1].lower()}{message[1:]}; see {where} --help"


def _hint(word: str, known: Sequence[str], where: str) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"see {where} --help"


def _of_the_system(error: OSError) -> str:
    """What the operating system refused, and where."""
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror or error}"
