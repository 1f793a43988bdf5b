"""The command that serves an engine's files, and the files that do so without paredown. No torch.

Only what these modules import has to travel: the server is made of nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from paredown.runtimes.base import SERVER, Package, Serving

MODULES = ("starlette", "uvicorn", "jinja2", "tokenizers", "numpy")
"""What a server needs besides its engine."""
_ROOT = Path(__file__).parents[1]
_COMMON = (
    "__init__", "runtimes/__init__", "runtimes/serving/__init__", "runtimes/serving/answers",
    "runtimes/serving/app", "runtimes/serving/generation", "runtimes/serving/main",
    "runtimes/serving/metrics", "runtimes/serving/model", "runtimes/serving/requests",
    "runtimes/serving/sampling", "runtimes/serving/texts",
)  # fmt: skip


def command(
    module: str, package: Package, *, host: str, port: int, serving: Serving
) -> tuple[str, ...]:
    """The words that start a server here.

    Args:
        module: `python -m` of it is the server.
    """
    options = {
        "host": host, "port": port, "name": serving.name, "context": serving.context,
        "slots": serving.slots, "queue": serving.queue, "threads": serving.threads,
        "cache": serving.cache,
    }  # fmt: skip
    given = ((f"--{k}", str(v)) for k, v in options.items() if v is not None)
    words = (word for pair in given for word in pair)
    return sys.executable, "-m", module, str(package.folder), *words


def files(engine: str, *modules: str) -> Mapping[str, Path]:
    """Files by their place in a package: the server, and the part of paredown that it is made of.

    Args:
        engine: folder of the engine in `runtimes`.
        modules: of that folder that its `server` imports.
    """
    own = (f"runtimes/{engine}/{module}" for module in ("__init__", *modules))
    parts = {f"paredown/{part}.py": _ROOT / f"{part}.py" for part in (*_COMMON, *own)}
    return {SERVER: _ROOT / "runtimes" / engine / "server.py", **parts}
