"""`paredown check`: whether a server, or a package, is ready. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from paredown.deploy.check import Patience
    from paredown.deploy.facts import Fact

_SIGNS = {"passed": "ok", "failed": "FAILED", "not applicable": "-"}
_STYLES = {"passed": "green", "failed": "bold red", "not applicable": "dim"}


def check(
    target: Annotated[
        str, typer.Argument(metavar="URL|PACKAGE", help="http://HOST:PORT, or a folder.")
    ],
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="proof.json of the package that it should serve; of a package: "
            "by default its own.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the model at a URL; by default the first it lists.")
    ] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Requests that a URL works on at once.")
    ] = None,
    request_timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="For one answer.")
    ] = 60.0,
    timeout: Annotated[
        float, typer.Option(min=1.0, metavar="SECONDS", help="For the whole check.")
    ] = 900.0,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:  # fmt: skip
    """Look whether a served model is ready: facts, each passed, failed or not applicable.

    A URL is asked: real answers, their agreement with the proof, full contexts, overload, wrong
    requests. A package is served on loopback for the purpose, so that its memory, its end and its
    next start are looked at as well. Only the host that is named is spoken to; its key is read
    from PAREDOWN_API_KEY. The exit code is 1 where a fact failed.
    """
    from paredown.deploy.check import Patience
    from paredown.report.console import make_console

    console = make_console(stderr=as_json)

    def tell(fact: Fact) -> None:
        console.print(f"{_SIGNS[fact.status]:6}", style=_STYLES[fact.status], end="")
        console.print(f"  {fact.name:13} {fact.seen}", soft_wrap=True)

    patience = Patience(request_s=request_timeout, whole_s=timeout)
    found = _facts(target, against, name, slots, patience, tell)
    failures = [fact.name for fact in found if fact.status == "failed"]
    if as_json:
        import json

        from paredown.spec.serial import plain

        document = {"target": target, "ready": not failures, "facts": plain(found)}
        print(json.dumps(document, indent=2))
    else:
        passed = sum(fact.status == "passed" for fact in found)
        words = f"not ready: {', '.join(failures)}" if failures else "ready"
        console.print(f"{passed} passed, {len(failures)} failed: {words}", soft_wrap=True)
    raise typer.Exit(1 if failures else 0)


def _facts(
    target: str,
    against: Path | None,
    name: str | None,
    slots: int | None,
    patience: Patience,
    tell: Callable[[Fact], None],
) -> list[Fact]:
    """What there is to see of a URL, or of a package.

    Raises:
        ConfigError: it is neither.
    """
    import os

    from paredown.deploy.check import check_package, check_server
    from paredown.deploy.proof import read_proof
    from paredown.errors import ConfigError
    from paredown.runtimes.base import KEY_VARIABLE

    proof = None if against is None else read_proof(against)
    if target.startswith(("http://", "https://")):
        key = os.environ.get(KEY_VARIABLE) or None
        return check_server(
            target, key=key, name=name, proof=proof, slots=slots, patience=patience, tell=tell
        )
    folder = Path(target).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{target!r}: give http://HOST:PORT, or the folder of a package")
    return check_package(folder, proof=proof, patience=patience, tell=tell)
