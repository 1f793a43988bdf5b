"""Serves a package in OpenVINO behind OpenAI's API; `runtimes/serving` is the server.

    python server.py FOLDER [--settings serving.json] [--host H] [--port P] ...

This file travels with a package, beside the part of paredown that it is made of, so that what is
measured here is what is served there. It asks for the key in PAREDOWN_API_KEY, where there is one.
On SIGTERM it answers what it was asked before, and ends.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Serve until SIGTERM; returns the exit code."""
    # A package's checksums know of no compiled files.
    sys.dont_write_bytecode = True
    from paredown.runtimes.openvino.loaded import OpenVinoModel
    from paredown.runtimes.serving.main import serve

    return serve(OpenVinoModel, cache="f16")


if __name__ == "__main__":
    sys.exit(main())
