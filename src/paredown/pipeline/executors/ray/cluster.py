"""The cluster: which nodes there are, what they have, and whether they will do."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from paredown.artifact.description import library_versions
from paredown.errors import ConfigError
from paredown.pipeline.executors.demand import Demand
from paredown.pipeline.executors.ray.node import look
from paredown.pipeline.executors.ray.order import Seen
from paredown.spec.units import human_bytes

OLDEST = (2, 60)
NAMESPACE = "paredown"
_CONNECT_S, _LOOK_S = 5.0, 120.0


@final
@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that takes jobs; its memory in bytes is what Ray may give away."""

    id: str
    address: str
    cpus: float
    gpus: float
    memory_bytes: float
    is_head: bool
    seen: Seen

    def takes(self, demand: Demand) -> bool:
        """Whether it has as much, with nothing else on it."""
        return (
            self.cpus >= demand.cpus
            and self.gpus >= demand.gpus
            and self.memory_bytes >= demand.memory_bytes
        )

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        memory = human_bytes(int(self.memory_bytes))
        return f"{self.address} ({self.cpus:g} CPU{gpus}, {memory}, {self.seen.machine.cpu})"


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be a driver of a cluster that runs; of the one this process is connected to, if it is.

    Args:
        address: `HOST:PORT`; None: RAY_ADDRESS, or the cluster that runs on this machine.

    Raises:
        ConfigError: there is none, or it does not answer, or it is too old.
    """
    _require_version()
    if ray.is_initialized():
        yield
        return
    told = address or os.environ.get("RAY_ADDRESS") or "auto"
    if told != "auto":
        _require_answer(told)
    try:
        ray.init(
            address=told, namespace=NAMESPACE, log_to_driver=False,
            configure_logging=False, logging_level=logging.ERROR,
        )  # fmt: skip
    # Ray has no class of its own for a cluster that refuses: ConnectionError, ValueError,
    # RuntimeError and its authentication error all say so.
    except Exception as error:
        raise ConfigError(_why_not(error, told)) from error
    try:
        yield
    finally:
        ray.shutdown()


def nodes_of(
    places: Sequence[Path] = (), shared: Sequence[Path] = ()
) -> tuple[tuple[Node, ...], dict[str, str]]:
    """The nodes that take jobs, and why others that are alive do not, by their addresses.

    Args:
        places: files and folders that a node must see.
        shared: folders in which a node must find what is written here.
    """
    alive = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) >= 1]
    found: list[Node] = []
    refused: dict[str, str] = {}
    with _tokens(shared) as tokens:
        task = ray.remote(look)
        asked = {
            n["NodeID"]: task.options(
                num_cpus=0, max_retries=1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=False),
            ).remote([str(place) for place in places], tokens)
            for n in alive
        }  # fmt: skip
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=_LOOK_S)
        for node in alive:
            address = node["NodeManagerAddress"]
            try:
                seen = ray.get(asked[node["NodeID"]], timeout=0)
            except ray.exceptions.RayError as error:
                refused[address] = _why(error)
                continue
            if why := _unfit(seen):
                refused[address] = why
                continue
            found.append(_node(node, seen))
    return tuple(sorted(found, key=lambda n: (n.address, n.id))), refused


def alive_nodes() -> set[str]:
    """Ids of all nodes that are alive."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def measuring_kind(nodes: Sequence[Node], *, device: str, before: str | None) -> str:
    """Id of the kind of machine on which everything is timed.

    The one on which the base was measured `before`, if it is there; else, where a GPU may be used,
    one with a GPU; else the one with the most nodes.
    """
    kinds = Counter(node.seen.machine.id for node in nodes)
    if before in kinds:
        return str(before)
    by_kind = {node.seen.machine.id: node for node in nodes}
    wants_gpu = device != "cpu"

    def rank(kind: str) -> tuple[bool, int, str]:
        node = by_kind[kind]
        return wants_gpu and node.gpus > 0 and node.seen.torch_has_cuda, kinds[kind], kind

    return max(kinds, key=rank)


def require_room(nodes: Sequence[Node], demand: Demand, *, address: str) -> None:
    """See that some node takes a stage.

    Raises:
        ConfigError: none does; says what is asked for and what there is.
    """
    if any(node.takes(demand) for node in nodes):
        return
    there = "; ".join(map(str, nodes)) or "none"
    raise ConfigError(
        f"no node of the Ray cluster ({address}) takes the stage {demand.stage}, which asks for "
        f"{demand}; there are: {there}"
    )


def _require_version() -> None:
    found = tuple(int(part) for part in ray.__version__.split(".")[:2])
    if found < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ConfigError(
            f"ray {ray.__version__} is too old, {oldest} is needed: pip install -U 'paredown[ray]'"
        )


def _why_not(error: Exception, told: str) -> str:
    """Why there is no connection, in one line."""
    chain: BaseException | None = error
    while chain is not None:
        if "InvalidAuthToken" in str(chain):
            return (
                f"the Ray cluster at {told} asks for its token: set RAY_AUTH_MODE=token, and copy "
                "the head's ~/.ray/auth_token here or name it in RAY_AUTH_TOKEN_PATH"
            )
        chain = chain.__cause__ or chain.__context__
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"no Ray cluster at {told}: {said[:300]}; start one with `ray start --head`, or name it "
        "with --address HOST:PORT"
    )


def _require_answer(address: str) -> None:
    """Ray itself would ask for a minute."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_S):
            pass
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster at {address}: {error}; start one with `ray start --head`, or name it "
            "with --address HOST:PORT"
        ) from error


@contextmanager
def _tokens(folders: Sequence[Path]) -> Iterator[dict[str, str]]:
    """A file with a random text in each folder, as long as this lasts."""
    written = {}
    try:
        for folder in folders:
            path = folder / f".paredown-{secrets.token_hex(8)}"
            written[str(path)] = secrets.token_hex(16)
            path.write_text(written[str(path)])
        yield written
    finally:
        for name in written:
            with contextlib.suppress(OSError):
                Path(name).unlink()


def _unfit(seen: Seen) -> str:
    """Why a node that answers is not to be used; empty if it is."""
    here = library_versions()
    differ = [
        f"{name} {seen.versions.get(name, 'missing')} there, {version} here"
        for name, version in here.items()
        if _public(seen.versions.get(name)) != _public(version)
    ]
    if differ:
        return f"it has other libraries ({', '.join(differ)})"
    if seen.missing:
        return (
            f"it does not see {', '.join(seen.missing)}; files travel through folders that every "
            "node sees at the same path"
        )
    return ""


def _public(version: str | None) -> str | None:
    """`2.13.0` of `2.13.0+cpu`: builds of one version compute the same."""
    return None if version is None else version.partition("+")[0]


def _why(error: Exception) -> str:
    text = str(error)
    if "No module named 'paredown'" in text:
        return "paredown is not installed there"
    if isinstance(error, ray.exceptions.GetTimeoutError):
        return f"it did not answer within {_LOOK_S:g} s"
    lines = [line for line in text.splitlines() if line.strip()]
    return f"it could not be looked at: {lines[-1].strip() if lines else type(error).__name__}"


def _node(found: dict[str, Any], seen: Seen) -> Node:
    resources = found["Resources"]
    return Node(
        id=found["NodeID"],
        address=found["NodeManagerAddress"],
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        memory_bytes=resources.get("memory", 0.0),
        is_head="node:__internal_head__" in resources,
        seen=seen,
    )
