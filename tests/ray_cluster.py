"""A Ray cluster on this machine, for tests and benchmarks; ended process by process."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# Ray reads how a cluster is entered when it is imported, so this module comes before it.
os.environ.update(
    RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0"
)
HEAD = "127.0.0.2"
"""Ray takes 127.0.0.1 for the network address, so nodes of one machine have others."""
_STORE_BYTES = 80_000_000
_START_S = 120.0


class LocalCluster:
    """Nodes that are begun and killed one by one; `address` is that of the head."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        # A short path: sockets lie below it, whose names may have about a hundred letters.
        self._scratch = Path(tempfile.mkdtemp(prefix="ray-"))
        self._base = {**os.environ, **(environment or {})}
        with socket.socket() as probe:
            probe.bind((HEAD, 0))
            self.address = f"{HEAD}:{probe.getsockname()[1]}"
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start_head(self, *, cpus: int = 1, **more: str) -> None:
        """Begin the head."""
        port = self.address.partition(":")[2]
        self._start(
            HEAD, cpus, "--head", f"--port={port}", "--include-dashboard=false",
            f"--temp-dir={self._scratch}", "--disable-usage-stats", **more,
        )  # fmt: skip

    def start_node(self, address: str, *, cpus: int = 1, **more: str) -> None:
        """Begin another node; `more`: variables of its environment."""
        self._start(address, cpus, f"--address={self.address}", **more)

    def kill_node(self, address: str) -> None:
        """What a power failure does to it."""
        process = self._nodes.pop(address)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        """End all nodes, the head last."""
        for address in reversed(tuple(self._nodes)):
            self.kill_node(address)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _start(self, address: str, cpus: int, *words: str, **more: str) -> None:
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--block", *words,
            f"--node-ip-address={address}", f"--num-cpus={cpus}",
            f"--object-store-memory={_STORE_BYTES}",
        ]  # fmt: skip
        log = self._scratch / f"{address}.log"
        with log.open("wb") as output:
            self._nodes[address] = subprocess.Popen(
                command, env={**self._base, **more}, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while b"Ray runtime started" not in log.read_bytes():
            if self._nodes[address].poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"node {address} did not start: {log.read_text()}")
            time.sleep(0.1)


@contextmanager
def local_cluster(environment: Mapping[str, str] | None = None) -> Iterator[LocalCluster]:
    """A cluster without nodes, ended whatever happens."""
    cluster = LocalCluster(environment)
    try:
        yield cluster
    finally:
        cluster.close()
