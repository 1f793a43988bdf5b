"""On a node: a look at it, and one job, done by the worker processes of the local executor.

Ray's own process only watches: a crash, a limit or a hang of the job is a `Failed` as anywhere, and
when Ray's process is killed the job ends with it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from paredown.artifact.description import library_versions
from paredown.hardware.build import torch_has_cuda
from paredown.hardware.counters import open_rapl
from paredown.hardware.detect import detect
from paredown.pipeline.executors.local import LocalExecutor
from paredown.pipeline.executors.ray.order import Order, Report, Seen
from paredown.pipeline.executors.worker import Surroundings
from paredown.pipeline.messages import JOB, Ended, Failed
from paredown.spec.result import Failure, FailureKind
from paredown.store.atomic import write_json

ATTEMPTS = "attempts.json"
"""File in a job's folder: where it was begun, most recent last."""
OWN = ("PAREDOWN_HOME", "PAREDOWN_LOCKS", "PAREDOWN_CACHE_GB")
"""Variables of which a node's own value counts, where it has one."""
_LOSSES = 3
"""So often the process that watches a job may be killed on nodes that live on."""
_CUDA = "CUDA_VISIBLE_DEVICES"


def look(places: Sequence[str], tokens: Mapping[str, str]) -> Seen:
    """What this node has.

    Args:
        places: files and folders that it must see.
        tokens: what must stand in files, by path.
    """
    hidden = os.environ.pop(_CUDA, None)  # Ray hides all GPUs from a task that asks for none
    try:
        machine = detect()
    finally:
        if hidden is not None:
            os.environ[_CUDA] = hidden
    missing = [place for place in places if not Path(place).exists()]
    missing += [str(Path(path).parent) for path, token in tokens.items() if _read(path) != token]
    counter = open_rapl()
    return Seen(
        machine=machine,
        versions=library_versions(),
        torch_has_cuda=torch_has_cuda(),
        no_energy=counter if isinstance(counter, str) else "",
        missing=tuple(missing),
    )


def perform(order: Order) -> Report:
    """Do the job, in a worker process under its limits."""
    node = ray.get_runtime_context().get_node_id()
    notes, killed = _begun(order, node)
    job = JOB.validate_json(order.job)
    if killed >= _LOSSES:
        message = (
            f"the process that watched it was killed {killed} times, most likely by Ray or the "
            "system for the memory of the node"
        )
        failure = Failure(kind=FailureKind.OUT_OF_MEMORY, message=message, stage=job.kind)
        return Report(ended=Ended(Failed(failure=failure), 0.0, notes), ran_s=0.0, node=node)
    _take_over(order)
    executor = LocalExecutor(
        memory_bytes=order.memory_bytes,
        threads=order.threads,
        surroundings=lambda folder: Surroundings(
            folder, order.working, _environment(), order.methods
        ),
    )
    executor.ready()  # what that takes is neither the job's to use nor to pay for
    start = time.monotonic()
    future: Any = executor.submit(job, order.folder, timeout_s=order.timeout_s)
    ended: Ended[Any] = future.result()
    ran_s = time.monotonic() - start - ended.waited_s
    return Report(ended=replace(ended, notes=(*notes, *ended.notes)), ran_s=ran_s, node=node)


def is_begun(folder: Path, token: str) -> bool:
    """Whether a node has begun an order."""
    try:
        return bool(json.loads((folder / ATTEMPTS).read_text())["order"] == token)
    except (OSError, ValueError):
        return False


def _begun(order: Order, node: str) -> tuple[tuple[str, ...], int]:
    """Note that the order was begun here; what is to tell of earlier attempts, and how many of
    them ended on a node that lives on."""
    path = order.folder / ATTEMPTS
    earlier: list[dict[str, str]] = []
    if path.exists():
        told = json.loads(path.read_text())
        earlier = told["attempts"] if told["order"] == order.token else []
    host = f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"
    write_json(path, {"order": order.token, "attempts": [*earlier, {"node": node, "host": host}]})
    alive = {found["NodeID"] for found in ray.nodes() if found["Alive"]}
    notes = tuple(
        f"it was begun on {each['host']}, "
        + ("where its process was killed" if each["node"] in alive else "a node that was lost")
        + f", and was done again on {host}"
        for each in earlier
    )
    return notes, sum(each["node"] in alive for each in earlier)


def _take_over(order: Order) -> None:
    """Have the session's environment here, for what this process starts."""
    # Ray sets as many threads as it counts processors for a task, whatever the user wants.
    os.environ.pop("OMP_NUM_THREADS", None)
    own = {name: os.environ[name] for name in OWN if name in os.environ}
    os.environ.update({**order.environment, **own})


def _environment() -> dict[str, str]:
    """For the job: without what is between Ray and its processes, such as its token."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None
