"""A server as a process: started, awaited, weighed and stopped; its last words when it dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import final

import psutil

from paredown.deploy.client import Client
from paredown.errors import ConfigError, ServerError
from paredown.runtimes.base import KEY_VARIABLE
from paredown.spec.redact import shown

START_S = 600.0
"""Longest wait until a server answers: a large model is read from a slow disk."""
DRAIN_S = 60.0
"""Longest wait for a server that was told to end."""
_WORDS = 5
"""Last lines of a log that are shown."""
_TAIL = 1 << 16


@final
class ServerProcess:
    """A running server that is ours to stop."""

    def __init__(self, process: subprocess.Popen[bytes], client: Client, log: Path) -> None:
        self.process, self.client, self.log = process, client, log

    @property
    def pid(self) -> int:
        """Of the server itself."""
        return self.process.pid

    def wait_ready(
        self, *, timeout_s: float = START_S, is_stopped: Callable[[], bool] = lambda: False
    ) -> float:
        """Seconds until `/health` says yes.

        Args:
            is_stopped: whether the user waits no longer.

        Raises:
            ServerError: it ended, the time is up, or nobody waits; with the last lines of its log.
        """
        start = time.monotonic()
        while (waited := time.monotonic() - start) < timeout_s and not is_stopped():
            if self.process.poll() is not None:
                raise ServerError(f"the server ended with {self._code()}; {self.last_words()}")
            try:
                if self.client.get("/health", timeout_s=5.0).is_ok:
                    return waited
            except ServerError:
                time.sleep(0.02)  # not up yet: refused, or reset while it starts
            else:
                time.sleep(0.1)  # up, and still loading
        raise ServerError(f"the server does not answer after {waited:.0f} s; {self.last_words()}")

    def peak_bytes(self) -> int | None:
        """Peak resident memory so far; None where the system does not tell, or it has ended."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return None
        found = next((line for line in lines if line.startswith("VmHWM:")), None)
        return None if found is None else int(found.split()[1]) * 1024

    def begin_stop(self) -> None:
        """Ask it to end after what it is answering (SIGTERM)."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait_ended(self, *, timeout_s: float = DRAIN_S) -> int | None:
        """Its exit code; None where it still runs after `timeout_s`."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End it and whatever it started: politely first."""
        children = _children(self.pid)
        self.begin_stop()
        if self.wait_ended() is None:
            self.process.kill()
            self.process.wait()
        for child in children:  # what a server leaves behind would hold the port and the memory
            if child.is_running():
                child.kill()

    def last_words(self) -> str:
        """The last lines of its log, in one line, without keys."""
        lines = [line.strip() for line in tail(self.log).splitlines() if line.strip()]
        said = " | ".join(shown(line, 200) for line in lines[-_WORDS:])
        return f"its last words: {said} ({self.log})" if said else "it said nothing"

    def _code(self) -> str:
        code = self.process.returncode
        if code >= 0:
            return f"exit code {code}"
        return f"signal {signal.Signals(-code).name}"


@contextmanager
def started(
    command: Sequence[str], *, url: str, log: Path, key: str | None = None, timeout_s: float = 60.0
) -> Iterator[ServerProcess]:
    """Start a server; it is stopped when the context ends, and ends with this process.

    Args:
        url: where it will answer.
        log: what it prints; a new file.
        key: that it asks for. It goes by the environment: arguments of a process are public.
        timeout_s: of a single exchange with it.

    Raises:
        ServerError: the command cannot be run.
    """
    environment = {k: v for k, v in os.environ.items() if not k.endswith(("_KEY", "_TOKEN"))}
    if key is not None:
        environment[KEY_VARIABLE] = key
    leashed = (sys.executable, "-m", "paredown.deploy.leash", str(os.getpid()), *command)
    with log.open("wb") as out:
        process = subprocess.Popen(
            leashed, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment,
            start_new_session=True,  # Ctrl-C is ours to pass on, when its answers are done
        )  # fmt: skip
    server = ServerProcess(process, Client(url, key=key, timeout_s=timeout_s), log)
    try:
        yield server
    finally:
        server.stop()


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def require_port(host: str, port: int) -> None:
    """See that a server can listen there.

    Raises:
        ConfigError: another does already, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            raise ConfigError(
                f"port {port}: ports below 1024 need root; take --port 8080"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"nothing can listen on {host}:{port}: {error.strerror}; choose another --port, or "
                f"end what listens there"
            ) from None


def tail(log: Path) -> str:
    """The end of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
