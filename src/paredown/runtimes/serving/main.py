"""The server as a program; each engine's `server.py` runs it with the model that it loads."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from paredown.runtimes.serving.app import Service
from paredown.runtimes.serving.generation import Slots
from paredown.runtimes.serving.model import Served
from paredown.runtimes.serving.texts import Prompts

KEY_VARIABLE = "PAREDOWN_API_KEY"
DRAIN_S = 50
"""Longest wait for answers at the end: an orchestrator kills after a minute or so."""
Load = Callable[[Path, int], Served]
"""(folder, threads) -> the model."""


def serve(load: Load, words: list[str] | None = None, *, cache: str) -> int:
    """Load a package's files and serve them until SIGTERM or Ctrl-C; returns the exit code.

    What was asked before the end is answered, for `DRAIN_S` at most.

    Args:
        cache: how the model stores keys and values; another wish is refused.
    """
    options = _parse(words)
    if options.cache not in {None, cache}:
        return _complain(f"--cache {options.cache}: keys and values are stored as {cache} here")
    key = os.environ.get(KEY_VARIABLE) or None
    if key is None and not _is_loopback(options.host):
        return _complain(f"{options.host}: beyond this machine a key is needed; set {KEY_VARIABLE}")
    threads = options.threads or len(os.sched_getaffinity(0))
    model = load(options.folder, threads)
    context = min(options.context or model.context, model.context)
    slots = Slots(model, slots=options.slots, context=context, queue=options.queue)
    service = Service(
        slots, Prompts(options.folder, model.tokenizer), name=options.name or options.folder.name,
        key=key,
    )  # fmt: skip
    config = uvicorn.Config(
        service.app(), host=options.host, port=options.port, timeout_graceful_shutdown=DRAIN_S,
        access_log=False, server_header=False, lifespan="off", log_level="info",
    )  # fmt: skip
    # uvicorn raises the signal again when it has drained, which would end in an exit code of
    # failure where nothing failed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    threading.excepthook = _crash
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else 1


def _parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve a package behind OpenAI's API.")
    parser.add_argument("folder", type=Path, help="holds the engine's files")
    parser.add_argument("--settings", type=Path, help="serving.json; options win over it")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--name", help="under which the model is listed")
    parser.add_argument("--context", type=int, help="tokens of one request")
    parser.add_argument("--slots", type=int, help="requests at once")
    parser.add_argument("--queue", type=int, help="requests that may wait")
    parser.add_argument("--threads", type=int, help="of the processor")
    parser.add_argument("--cache", help="how keys and values are stored")
    given = parser.parse_args(words)
    usual: dict[str, Any] = {
        "host": "127.0.0.1", "port": 8080, "name": None, "context": None, "slots": 1,
        "queue": None, "threads": None, "cache": None,
    }  # fmt: skip
    if given.settings is not None:
        told = json.loads(given.settings.read_text())
        usual |= {name: told[name] for name in usual if told.get(name) is not None}
    for name, value in usual.items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: who knows where it leads
        return False


def _crash(args: threading.ExceptHookArgs) -> None:
    """End loudly: a slot that a bug has ended would be missing without a word."""
    threading.__excepthook__(args)
    sys.stderr.flush()
    os._exit(70)


def _complain(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return 2
