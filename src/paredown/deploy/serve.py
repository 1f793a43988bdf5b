"""A package behind its engine's own OpenAI-compatible server."""

from __future__ import annotations

import ipaddress
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from paredown.deploy.package import (
    MODEL,
    PackageRecord,
    ServingSettings,
    read_record,
    read_settings,
    verify,
)
from paredown.deploy.process import DRAIN_S, ServerProcess, require_port, started
from paredown.deploy.questions import Questioner
from paredown.errors import ConfigError, ServerError
from paredown.runtimes.base import KEY_VARIABLE, Engine, Package, Serving
from paredown.runtimes.registry import engine

LOG = "server.log"


def server_command(
    runtime: Engine, package: Package, settings: ServingSettings, *, host: str, port: int
) -> tuple[str, ...] | None:
    """The command that serves the files of an engine; None: it has no server."""
    serving = Serving(
        name=settings.name, context=settings.context, slots=settings.slots,
        queue=settings.queue, threads=settings.threads, cache=settings.cache,
    )  # fmt: skip
    return runtime.server(package, host=host, port=port, serving=serving)


def package_command(
    folder: Path, record: PackageRecord, settings: ServingSettings, *, host: str, port: int
) -> tuple[str, ...]:
    """The command that serves a package.

    Raises:
        ConfigError: its engine is not installed, or has no server.
    """
    runtime = engine(record.runtime)
    package = Package(runtime=record.runtime, folder=folder / MODEL, nbytes=record.nbytes)
    found = server_command(runtime, package, settings, host=host, port=port)
    if found is None:
        raise ConfigError(
            f"runtime {record.runtime!r} has no server of its own; deploy to llama.cpp to serve"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Up:
    """What a server says when it answers."""

    url: str
    name: str
    seconds: float
    """From its start to the first token of a real generation."""


def serve(
    folder: Path, *, host: str | None = None, port: int | None = None, log: Path,
    tell: Callable[[Up], None], words: Callable[[str], None] = lambda line: None,
) -> int:  # fmt: skip
    """Serve a package until SIGTERM or Ctrl-C; what is being answered then is answered to the end.

    Args:
        host, port: None: as the package's settings say.
        log: what the server prints.
        tell: told once it answers a real generation.
        words: told what happens, in a line.

    Returns:
        The exit code for this process.

    Raises:
        ConfigError: no package, bytes that have changed, an engine that is missing, a port in use,
            or another address than loopback without a key.
        ServerError: it does not start, or it dies; with the last lines of its log.
    """
    record, settings = read_record(folder), read_settings(folder)
    host, port = host or settings.host, settings.port if port is None else port
    key = os.environ.get(KEY_VARIABLE) or None
    if key is None and not is_loopback(host):
        raise ConfigError(
            f"{host} can be reached from other machines: set a key in {KEY_VARIABLE} first"
        )
    line = package_command(folder, record, settings, host=host, port=port)
    require_port(host, port)
    words(f"{verify(folder)} files are as they were made")
    url = f"http://{_reachable(host)}:{port}"
    with _interrupts() as interrupted, started(line, url=url, log=log, key=key) as server:
        seconds = _ready(server, settings.name, interrupted)
        if seconds is None:
            return 0
        tell(Up(url=url, name=settings.name, seconds=seconds))
        while server.process.poll() is None:
            if interrupted.wait(0.2):
                words(f"draining: it ends when its answers are given, in {DRAIN_S:g} s at most")
                return 0
        raise ServerError(f"the server ended by itself; {server.last_words()}")


def _ready(server: ServerProcess, name: str, interrupted: threading.Event) -> float | None:
    """Seconds until a token was generated; None where the user has ended it before."""
    start = time.monotonic()
    try:
        server.wait_ready(is_stopped=interrupted.is_set)
        Questioner(server.client, name).complete("Once upon a time", max_tokens=1)
    except ServerError:
        if interrupted.is_set():
            return None
        raise
    return time.monotonic() - start


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reachable(host: str) -> str:
    """Where a server that listens on `host` is reached from this machine."""
    if host in {"0.0.0.0", "::"}:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set, in place of what they do otherwise."""
    event = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        event.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
