"""What goes to a node, and what comes back. No Ray here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paredown.hardware.detect import Machine
from paredown.pipeline.messages import Ended


@dataclass(frozen=True, kw_only=True)
class Order:
    """A job, and how it is to be done.

    Attributes:
        id: the same whenever the same is asked for in the same folder.
        token: of this order alone.
        job: as JSON.
        folder: of the job, absolute, seen by every node.
        timeout_s: once it has begun on a node.
        working: working folder of the process.
        environment: variables of the session that count on a node, too.
        methods: what the program has registered of its own.
        memory_bytes: limit of the process; None: nine tenths of what is free.
        threads: that it may use; None: all, or as the environment says.
    """

    id: str
    token: str
    job: str
    folder: Path
    timeout_s: float
    working: Path
    environment: Mapping[str, str] = field(repr=False)
    methods: bytes = field(default=b"", repr=False)
    memory_bytes: float | None = None
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of an order.

    Attributes:
        ran_s: seconds on the node, without those in line for it.
        node: id of the node that did it.
    """

    ended: Ended[Any]
    ran_s: float
    node: str


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a node has, looked at from inside.

    Attributes:
        versions: of the libraries that decide what an artifact is.
        torch_has_cuda: whether its torch can use a GPU.
        no_energy: why no energy can be measured on it; empty where it can.
        missing: folders and files that it does not see, or not the same ones.
    """

    machine: Machine
    versions: Mapping[str, str]
    torch_has_cuda: bool
    no_energy: str
    missing: tuple[str, ...]
