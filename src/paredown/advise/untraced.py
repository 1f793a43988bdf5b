"""Nothing leaves the machine unasked: tracing services found in the environment stay off."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCHES = tuple(
    f"{owner}_{name}"
    for owner in ("LANGSMITH", "LANGCHAIN")
    for name in ("TRACING", "TRACING_V2", "HANDLER")
)


@contextmanager
def untraced() -> Iterator[None]:
    """Run LangChain and LangGraph without LangSmith, whatever the environment says.

    Users of LangChain often have `LANGSMITH_TRACING` set; with it, every state of the graph (file
    names, strategies) would be sent to that service, by a run that uses no LLM at all.
    """
    from langsmith.run_helpers import tracing_context

    kept = {name: os.environ.pop(name) for name in _SWITCHES if name in os.environ}
    try:
        # The library remembers what it has read of the environment, so it is also told.
        with tracing_context(enabled=False):
            yield
    finally:
        os.environ.update(kept)
