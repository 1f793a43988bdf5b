"""Serves a GGUF behind OpenAI's API; needs xllamacpp and nothing else, paredown included.

    python server.py FOLDER [--settings serving.json] [--host H] [--port P] ...

This file travels with a package (as `server.py`), so that what is measured here is what is served
there. It asks for the key in PAREDOWN_API_KEY, where there is one. On SIGTERM it answers what it
was asked before, and ends.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

KEY_VARIABLE = "PAREDOWN_API_KEY"
DRAIN_S = 50.0
"""Longest wait for answers at the end: an orchestrator kills after a minute or so."""
_BUSY = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
_FLUSH_S = 0.3
"""From a slot that is free to the last byte of its answer on the wire."""
_SPARE_THREADS = 64
"""HTTP threads beyond the slots. Each waiting request holds one; when none is left, /health waits
as well, and a probe kills a server that is merely busy."""
_READ_S = 600


def main(words: list[str] | None = None) -> int:
    """Serve until SIGTERM; returns the exit code."""
    options = _parse(words)
    try:
        import xllamacpp
    except ImportError as error:
        return _complain(f"xllamacpp cannot be imported: {error}")
    if not _is_loopback(options.host) and not os.environ.get(KEY_VARIABLE):
        return _complain(f"{options.host}: beyond this machine a key is needed; set {KEY_VARIABLE}")
    model = _gguf(options.folder)
    if model is None:
        return _complain(f"{options.folder} holds no .gguf file, or several")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    # Its threads would hold up the interpreter's end, so the process is left by `os._exit`.
    server = xllamacpp.Server(_params(xllamacpp, model, options))
    _say(f"listening on {server.listening_address}")
    # Not without a limit: in a wait without one, Python sees no signal on some systems.
    while not ended.wait(1.0):
        pass
    _drain(server.listening_address)
    sys.stderr.flush()
    os._exit(0)


def _parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve a GGUF behind OpenAI's API.")
    parser.add_argument("folder", type=Path, help="holds one .gguf file")
    parser.add_argument("--settings", type=Path, help="serving.json; options win over it")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--name", help="under which the model is listed")
    parser.add_argument("--context", type=int, help="tokens of one request")
    parser.add_argument("--slots", type=int, help="requests at once")
    parser.add_argument("--threads", type=int, help="of the processor")
    parser.add_argument("--cache", help="type of keys and values: f16, q8_0, ...")
    given = parser.parse_args(words)
    usual: dict[str, Any] = {
        "host": "127.0.0.1", "port": 8080, "name": None, "context": None, "slots": 1,
        "threads": None, "cache": None,
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


def _gguf(folder: Path) -> Path | None:
    found = sorted(folder.glob("*.gguf"))
    return found[0] if len(found) == 1 else None


def _params(xllamacpp: Any, model: Path, options: argparse.Namespace) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {options.name or model.stem}
    params.hostnames, params.port = [options.host], options.port
    params.n_parallel = options.slots
    # It divides what it is given among the slots; 0 is the model's own, which each slot gets.
    params.n_ctx = (options.context or 0) * options.slots
    params.kv_unified = False
    threads = options.threads or len(os.sched_getaffinity(0))
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_threads_http = options.slots + _SPARE_THREADS
    params.timeout_read = params.timeout_write = _READ_S
    params.endpoint_metrics = True
    params.endpoint_slots = params.endpoint_props = params.ui = False
    # By default it keeps up to 8 GiB of former prompts, whatever the machine has.
    params.cache_ram_mib = 0
    # Nothing is to be made smaller without a word: what does not fit fails.
    params.fit_params = False
    if options.cache is not None:
        kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.cache.upper()}", None)
        if kind is None:
            sys.exit(_complain(f"--cache {options.cache}: no type of llama.cpp"))
        params.cache_type_k = params.cache_type_v = kind
    if key := os.environ.get(KEY_VARIABLE):
        params.api_keys = [key]
    return params


def _drain(address: str) -> None:
    """Wait until nothing is being answered, at most `DRAIN_S`."""
    _say("told to end: waiting for answers")
    deadline = time.monotonic() + DRAIN_S
    while time.monotonic() < deadline and _busy(address):
        time.sleep(0.05)
    time.sleep(_FLUSH_S)
    _say("ended")


def _busy(address: str) -> bool:
    """Whether requests are worked on or wait, by its own metrics."""
    key = os.environ.get(KEY_VARIABLE)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{address}/metrics", headers=headers)
    # Without the user's proxies, which know nothing of this machine's loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as reply:
            lines = reply.read().decode().splitlines()
    except (urllib.error.URLError, OSError):
        return False  # it has ended by itself
    counts = [float(line.split()[-1]) for line in lines if line.startswith(_BUSY)]
    return any(counts)


def _complain(message: str) -> int:
    _say(f"error: {message}")
    return 2


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
