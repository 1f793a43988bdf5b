"""`paredown dashboard`: experiments in the browser."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer


def dashboard(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="[DIR]", help="An experiment's folder, or one that holds experiments."
        ),
    ] = Path("data/experiments"),
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than loopback asks for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8501,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="PAREDOWN_DASHBOARD_TOKEN",
            help="That visitors must know. [default: none on loopback, elsewhere a new one]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Look at experiments in the browser while they go on, and steer them.

    Reads the folder, whoever writes it: a run here, or on another machine that shares the disk.
    Ctrl-C ends the dashboard and no run.
    """
    from paredown.dashboard.access import token_for
    from paredown.dashboard.server import require_streamlit, serve
    from paredown.errors import ConfigError

    require_streamlit()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; give the folder of an experiment, or of several")
    needed = token_for(host, token)
    _require_free(host, port)
    where = f"[{host}]" if ":" in host else host
    print(f"http://{where}:{port} shows {folder.resolve()}; Ctrl-C ends it", flush=True)
    if needed is not None and token is None:
        print(f"token: {needed}", flush=True)
        print("whoever has it can steer runs; the connection is not encrypted", flush=True)
    serve(folder.resolve(), host=host, port=port, token=needed)


def _require_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, before a server is started.

    Raises:
        ConfigError: why not.
    """
    from paredown.errors import ConfigError

    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        said = f"cannot listen on {host}, port {port}: {error.strerror or error}"
        raise ConfigError(f"{said}; take another with --host or --port") from None
