"""`paredown serve`: a package behind its engine's own OpenAI-compatible server. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="Folder made by deploy.")],
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; other than loopback needs a key."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="By default as serving.json says.")
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What the server prints; by default a temporary file."),
    ] = None,
) -> None:
    """Serve a package until SIGTERM or Ctrl-C, which let it give the answers that were begun.

    Every byte is compared with the checksums first. How it is served stands in the package's
    serving.json. The key that it asks for is read from PAREDOWN_API_KEY.
    """
    import tempfile

    from paredown.deploy.serve import LOG, Up
    from paredown.deploy.serve import serve as run
    from paredown.report.console import make_console

    console = make_console()

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    def up(found: Up) -> None:
        say(f"{found.name} answers at {found.url}/v1 after {found.seconds:.1f} s; Ctrl-C ends it")
        body = '{"messages": [{"role": "user", "content": "Hello"}]}'
        say(f"try: curl {found.url}/v1/chat/completions -d '{body}'")

    with tempfile.TemporaryDirectory(prefix="paredown-serve-") as scratch:
        place = log or Path(scratch) / LOG
        raise typer.Exit(run(package, host=host, port=port, log=place, tell=up, words=say))
