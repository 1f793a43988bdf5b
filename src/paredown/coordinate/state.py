"""The state that passes through the graph: a plain dict of JSON values.

It holds nothing that the experiment folder does not: the folder is the truth, and every node reads
from it what it needs. So a node that runs twice after a crash does no harm.
"""

from __future__ import annotations

from typing import Any, TypedDict


class State(TypedDict, total=False):
    """One turn of the loop.

    Keys:
        episode: number of the episode being run.
        decision: action, strategy, reason, expected, policy of the coordinator.
        built: outcome of the compression (`pipeline.build.Built`).
        result: the episode's `TrialResult`.
        stop_reason: why the loop ended; None while it goes on.
    """

    episode: int
    decision: dict[str, Any] | None
    built: dict[str, Any] | None
    result: dict[str, Any] | None
    stop_reason: str | None
