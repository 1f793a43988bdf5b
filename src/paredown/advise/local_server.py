"""The process of `--llm local`: `python -m paredown.advise.local_server MODEL PORT CONTEXT`."""

from __future__ import annotations

import os
import sys


def main(model: str, port: str, context: str) -> None:
    """Serve until standard input closes, which it does when the parent is gone."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = int(context)
    params.n_parallel = 1
    params.cpuparams.n_threads = len(os.sched_getaffinity(0))
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.sampling.temp = 0.0
    server = xllamacpp.Server(params)
    print("listening on", server.listening_address, file=sys.stderr, flush=True)  # noqa: T201
    sys.stdin.buffer.read()
    os._exit(0)  # its threads would wait for requests that nobody sends any more


if __name__ == "__main__":
    main(*sys.argv[1:])
