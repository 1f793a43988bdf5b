"""A llama.cpp server on this machine with the built-in model: an LLM to try the loop with, no key.

It runs in a process of its own, which ends when ours does, however it ends: it reads from a pipe
whose other end only we hold.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from paredown.advise.client import Endpoint
from paredown.errors import ConfigError, MissingExtraError
from paredown.store.home import home

CONTEXT = 4096
"""Tokens: room for the largest prompt, a repair round, and the answer."""
START_S = 180.0
"""Longest wait until the server answers."""


def require_server() -> None:
    """Refuse where the server is not installed.

    Raises:
        MissingExtraError: with the pip command.
    """
    if find_spec("xllamacpp") is None:
        raise MissingExtraError("--llm local", "xllamacpp", "llm-local")


@contextmanager
def local_server() -> Iterator[Endpoint]:
    """An endpoint on loopback; the server stops when the context ends.

    Raises:
        ConfigError: the model is not there, or the server does not start; with its last words.
    """
    from paredown.artifact.demo import demo_gguf

    model, log = demo_gguf(), home() / "llm-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "paredown.advise.local_server", str(model), str(port),
             str(CONTEXT)],
            stdin=subprocess.PIPE, stdout=out, stderr=out,
            env={k: v for k, v in os.environ.items() if not k.endswith(("_KEY", "_TOKEN"))},
        )  # fmt: skip
    try:
        _wait(process, port, log)
        yield Endpoint(
            model=model.stem, url=f"http://127.0.0.1:{port}/v1", key="none", price=(0.0, 0.0)
        )
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    # Without the user's proxies, which know nothing of this machine's loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"http://127.0.0.1:{port}/health")
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with opener.open(request, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    lines = log.read_text(errors="replace").strip().splitlines()
    last = lines[-1][:200] if lines else "nothing"
    raise ConfigError(f"--llm local: the server did not start; its last words: {last} ({log})")
