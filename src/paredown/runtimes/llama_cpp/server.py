"""llama.cpp's OpenAI-compatible server: `python -m paredown.runtimes.llama_cpp.server FILE`.

It answers /v1/chat/completions and /v1/completions (streaming, log-probabilities), /v1/models,
/health, /metrics, /tokenize, /apply-template, /props and /slots, until it is terminated. Beyond
this machine it is bound only with a key, which is read from the environment, never from the command
line, where every user of the machine could read it.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import sys
import threading
from collections.abc import Sequence

KEY = "PAREDOWN_API_KEY"
"""Environment variable of the key that clients have to send."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve one file until SIGTERM or SIGINT."""
    options = _options(arguments)
    key = os.environ.get(KEY, "")
    if not _is_loopback(options.host) and not key:
        sys.exit(f"--host {options.host}: beyond this machine a key is needed; set {KEY}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = _start(options, key)
    print("listening on", server.listening_address, file=sys.stderr, flush=True)  # noqa: T201
    stop.wait()
    # Its threads would wait for requests that nobody sends any more.
    os._exit(0)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m paredown.runtimes.llama_cpp.server")
    parser.add_argument("file", help="GGUF file")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--context", type=int, default=4096, help="tokens of one request")
    parser.add_argument("--parallel", type=int, default=1, help="requests served at once")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--alias", default=None, help="name of the model for clients")
    return parser.parse_args(arguments)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: who knows where it leads
        return False


def _start(options: argparse.Namespace, key: str) -> object:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options.file
    # The context is shared out among the requests that are served at once.
    params.n_ctx = options.context * options.parallel
    params.n_parallel = options.parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.hostnames = [options.host]
    params.port = options.port
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.use_jinja = True
    if key:
        params.api_keys = [key]
    if options.alias:
        params.model_alias = {options.alias}
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
