"""What the nodes of the graph pass on, and what they work with.

The state holds nothing that the experiment folder and the crew do not: the folder is the truth, and
every node reads from it what it needs. So a node that runs twice after a crash does no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypedDict

from paredown.coordinate.crew import Assigned, Crew, Finished
from paredown.coordinate.interrupt import Interrupt
from paredown.coordinate.setup import Prepared
from paredown.coordinate.steering import Steering
from paredown.pipeline.bench import Bench
from paredown.search.base import Policy
from paredown.store.experiment import Experiment

Listener = Callable[[str, dict[str, Any]], None]
"""Told what happens (`decision`, `progress`, `result`, `interrupted`, ...), for displays."""


class State(TypedDict, total=False):
    """One turn of the loop; nothing serialises it, so records pass as themselves.

    Keys:
        assigned: what the coordinator wants carried out now; empty while it waits for others.
        finished: what came in.
        stop_reason: why the loop ended; None while it goes on.
    """

    assigned: tuple[Assigned, ...]
    finished: tuple[Finished, ...]
    stop_reason: str | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """What nodes work with; the state is what they pass on."""

    prepared: Prepared
    experiment: Experiment
    bench: Bench
    policy: Policy
    listen: Listener
    interrupt: Interrupt = field(default_factory=Interrupt)
    steering: Steering = field(default_factory=Steering)
    crew: Crew = field(default_factory=Crew)
