"""Jobs as tasks of a Ray cluster, each stage with what it needs."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import ray

from paredown.errors import ConfigError
from paredown.methods import registered, registry
from paredown.pipeline.executors.base import Place
from paredown.pipeline.executors.demand import Demand, demands
from paredown.pipeline.executors.ray.cluster import (
    NAMESPACE,
    Node,
    alive_nodes,
    connected,
    measuring_kind,
    nodes_of,
    require_room,
)
from paredown.pipeline.executors.ray.keeper import Keeper
from paredown.pipeline.executors.ray.node import is_begun
from paredown.pipeline.executors.ray.order import Order, Report
from paredown.pipeline.executors.watch import Teller
from paredown.pipeline.executors.worker import PROGRESS_FILE
from paredown.pipeline.messages import CompressJob, D, Ended, Job
from paredown.spec.model import ModelSpec
from paredown.spec.progress import Progress, unheard
from paredown.spec.run import RunConfig
from paredown.spec.serial import content_hash
from paredown.spec.target import Device
from paredown.spec.units import human_seconds

_POLL_S, _LOOK_S = 0.2, 5.0
_PATIENCE_S = 300.0
"""So long a job waits for a node that may take it, once the last such was lost."""
_TOLD = ("PAREDOWN_", "OMP_", "MKL_", "KMP_", "HF_HUB_OFFLINE", "HF_HOME")
"""Beginnings of the variables that count on a node; never one that may hold a secret."""


@dataclass(eq=False)
class _Running:
    """A job from its submission to its end."""

    order: Order
    stopped: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class _NodesLostError(Exception):
    """No node is left that the task could go to."""


@final
class RayExecutor:
    """Runs jobs on the nodes of a cluster that is there.

    To be entered before it is used. Left in order, it ends what is under way and leaves nothing in
    the cluster; where the process is killed, the jobs go on, and the executor of a resumed session
    takes them up.
    """

    def __init__(
        self,
        *,
        folder: Path,
        address: str | None,
        workers: int,
        memory_bytes: float | None,
        device: str = "auto",
        before: str | None = None,
    ) -> None:
        """An executor for one experiment.

        Args:
            folder: of the experiment, which every node must see.
            address: of the cluster, `HOST:PORT`; None: as Ray finds it.
            workers: trials at once, which share the processors of the nodes.
            memory_bytes: limit of each worker; None: nine tenths of what is free at its start.
            device: as the user has it: where it may be a GPU, nodes with one are preferred.
            before: id of the machine on which the base was measured, if it was.
        """
        self._folder, self._address = folder.resolve(), address
        self._workers, self._memory_bytes = workers, memory_bytes
        self._device, self._before = device, before
        self._session = uuid.uuid4().hex
        self._at_end = ExitStack()
        self._nodes: tuple[Node, ...] = ()
        self._refused: dict[str, str] = {}
        self._strangers: set[str] = set()
        """Ids of nodes that were looked at, and are not to be used."""
        self._kind = ""
        self._demands: dict[str, Demand] = {}
        self._places: tuple[Path, ...] = ()
        self._keeper: Any = None
        self._running: set[_Running] = set()
        self._guard = threading.RLock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
            if self._keeper is not None:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.kill(self._keeper)
        finally:
            self._at_end.close()

    def start(self) -> None:
        """Connect, and look at the nodes.

        Raises:
            ConfigError: there is no cluster, or no node of it can be used.
        """
        self._at_end.enter_context(connected(self._address))
        self._look()
        self._kind = measuring_kind(self._nodes, device=self._device, before=self._before)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Those that take jobs."""
        return self._nodes

    @property
    def place(self) -> Place:
        """A node on which time is measured."""
        seen = next(n.seen for n in self._nodes if n.seen.machine.id == self._kind)
        return Place(
            machine=seen.machine, torch_has_cuda=seen.torch_has_cuda, no_energy=seen.no_energy
        )

    @property
    def where(self) -> dict[str, Any]:
        """The nodes, for the log: address, machine, and whether time is measured on it."""
        return {
            "address": self._shown,
            "nodes": [
                {
                    "address": node.address,
                    "machine": node.seen.machine.id,
                    "cpu": node.seen.machine.cpu,
                    "gpus": [gpu.name for gpu in node.seen.machine.gpus],
                    "times": node.seen.machine.id == self._kind,
                }
                for node in self._nodes
            ],
            "refused": self._refused,
        }

    def require(self, model: Path, spec: ModelSpec, config: RunConfig, device: Device) -> None:
        """See that every node finds the files, and every stage a node."""
        self._places = _places(model, config)
        self._look()
        if self._refused:
            told = "; ".join(f"{address}: {why}" for address, why in self._refused.items())
            raise ConfigError(f"not every node of the Ray cluster can be used: {told}")
        slots = -(-self._workers // len(self._nodes))
        self._demands = demands(
            spec,
            device=device,
            calibration_tokens=config.calibration.amount.wanted * config.calibration.length,
            memory_bytes=self._memory_bytes,
            stream=config.evaluate.stream if config.runtime == "torch" else "never",
            largest_bytes=max(node.memory_bytes for node in self._nodes),
            cpus=max(1, int(min(node.cpus for node in self._nodes)) // slots),
        )
        for stage, demand in self._demands.items():
            require_room(self._allowed(stage == "evaluate"), demand, address=self._shown)

    def goes_on(self, folder: Path) -> bool:
        """Whether the cluster still has what an earlier session began in `folder`."""
        asked = str(folder.resolve())
        keeper = self._opened_keeper()
        try:
            found: bool = ray.get(keeper.goes_on.remote(asked, session=self._session))
        except ray.exceptions.RayActorError:  # with it went what it had
            return False
        return found

    def submit(
        self, job: Job[D], folder: Path, *, timeout_s: float, watch: Progress | None = None
    ) -> Future[Ended[D]]:
        """Have a job done on a node; see `Executor`."""
        future: Future[Ended[D]] = Future()
        future.set_running_or_notify_cancel()
        start = time.monotonic()
        running = _Running(self._order(job, folder.resolve(), timeout_s))

        def carry_out() -> None:
            try:
                report = self._report(job, running, watch or unheard)
            except BaseException as error:  # noqa: BLE001  it is raised where the future is read
                future.set_exception(error)
            else:
                waited = time.monotonic() - start - report.ran_s
                machine = self._machine_of(report.node)
                future.set_result(replace(report.ended, waited_s=waited, machine=machine))
            finally:
                with self._guard:
                    self._running.discard(running)
                running.ended.set()

        running.thread = threading.Thread(target=carry_out, name=f"job in {folder}", daemon=True)
        with self._guard:
            self._running.add(running)
        running.thread.start()
        return future

    def close(self) -> None:
        """End every job that is under way, on whatever node."""
        with self._guard:
            running = tuple(self._running)
            keeper = self._keeper
        for job in running:
            job.stopped.set()
        if running and keeper is not None:
            with contextlib.suppress(ray.exceptions.RayActorError):
                ray.get(keeper.cancel.remote(tuple(job.order.id for job in running)))
        for job in running:
            if job.thread is not threading.current_thread():
                job.ended.wait()

    # --- One job ----------------------------------------------------------------------------------

    def _order(self, job: Job[D], folder: Path, timeout_s: float) -> Order:
        own = registry.registered()
        told = os.environ.get("OMP_NUM_THREADS")
        demand = self._demands.get(job.kind)
        # What was meant is a file of the folder, and gone once it was compared.
        fields = job.model_dump(mode="json", exclude={"expected"})
        return Order(
            id=content_hash([str(folder), fields, self._kind if job.timed else ""], length=32),
            token=uuid.uuid4().hex,
            job=job.model_dump_json(),
            folder=folder,
            timeout_s=timeout_s,
            working=Path.cwd(),
            environment={k: v for k, v in os.environ.items() if k.startswith(_TOLD)},
            methods=registered.packed(own) if own else b"",
            memory_bytes=self._memory_bytes,
            threads=None if told or demand is None else demand.cpus,
        )

    def _report(self, job: Job[D], running: _Running, watch: Progress) -> Report:
        # An artifact that is gone is made anew, whatever the answer was.
        anew = isinstance(job, CompressJob) and not job.out.exists()
        running.order.folder.mkdir(parents=True, exist_ok=True)
        while True:
            nodes = self._nodes_for(job, running, watch)
            try:
                keeper = self._opened_keeper()
                given = keeper.submit.remote(
                    running.order, self._options(job, nodes), session=self._session, anew=anew
                )
                return self._followed(keeper, running, nodes, watch, token=ray.get(given))
            except _NodesLostError:
                ray.get(keeper.cancel.remote((running.order.id,)))
            except ray.exceptions.RayActorError:  # the keeper's node was lost, and its tasks
                self._forget(keeper)
            if running.stopped.is_set():
                raise CancelledError

    def _followed(
        self,
        keeper: Any,
        running: _Running,
        nodes: Mapping[str, Node],
        watch: Progress,
        *,
        token: str,
    ) -> Report:
        """The report, awaited; progress is read from the folder, which every node sees."""
        answer, looked = keeper.answer.remote(running.order.id), time.monotonic()
        folder = running.order.folder
        tell = Teller(folder / PROGRESS_FILE, watch)
        watch(0.0, "in line for a node")
        while not ray.wait([answer], timeout=_POLL_S)[0]:
            if running.stopped.is_set():
                raise CancelledError
            if is_begun(folder, token):
                tell()
            if time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                if not nodes.keys() & alive_nodes():
                    raise _NodesLostError
        if running.stopped.is_set():
            raise CancelledError
        report: Report = ray.get(answer)
        return report

    def _options(self, job: Job[D], nodes: Mapping[str, Node]) -> dict[str, Any]:
        demand = self._demands[job.kind]
        return {
            "name": f"paredown {job.kind}",
            "num_cpus": demand.cpus,
            "num_gpus": demand.gpus,
            "memory": demand.memory_bytes,
            # Ray moves a task of a lost node to another of these.
            "label_selector": {"ray.io/node-id": f"in({','.join(nodes)})"},
        }

    def _nodes_for(self, job: Job[D], running: _Running, watch: Progress) -> dict[str, Node]:
        """The nodes that may take the job, by id; waits a while where the last one was lost.

        Raises:
            ConfigError: there is none, and none has come.
        """
        deadline = time.monotonic() + _PATIENCE_S
        demand = self._demands[job.kind]
        while True:
            alive = alive_nodes()
            with self._guard:
                if alive - {node.id for node in self._nodes} - self._strangers:
                    self._look()
                allowed = self._allowed(job.timed)
            found = {n.id: n for n in allowed if n.id in alive and n.takes(demand)}
            if found:
                return found
            if running.stopped.is_set():
                raise CancelledError
            if time.monotonic() > deadline:
                like = " like the one on which the base was measured" if job.timed else ""
                raise ConfigError(
                    f"the Ray cluster ({self._shown}) has lost every node{like} that takes the "
                    f"stage {job.kind} ({demand}), and got none back within "
                    f"{human_seconds(_PATIENCE_S)}; add one and resume: nothing finished is lost"
                )
            watch(0.0, "waiting for a node: the last one that could do it was lost")
            time.sleep(_LOOK_S)

    # --- The cluster ------------------------------------------------------------------------------

    @property
    def _shown(self) -> str:
        return self._address or os.environ.get("RAY_ADDRESS") or "of this machine"

    def _look(self) -> None:
        """Look at all nodes that are alive now."""
        alive = alive_nodes()
        shared = (self._folder,) if self._folder.exists() else ()
        self._nodes, self._refused = nodes_of(self._places, shared)
        self._strangers = alive - {node.id for node in self._nodes}
        if not self._nodes:
            told = "; ".join(f"{address}: {why}" for address, why in self._refused.items())
            raise ConfigError(
                f"the Ray cluster ({self._shown}) has no node that takes jobs: "
                f"{told or 'none has a CPU to give'}"
            )

    def _allowed(self, timed: bool) -> tuple[Node, ...]:
        """Time is measured on machines of one kind alone: latencies of others say nothing beside
        it."""
        return tuple(n for n in self._nodes if not timed or n.seen.machine.id == self._kind)

    def _machine_of(self, node: str) -> str | None:
        return next((n.seen.machine.id for n in self._nodes if n.id == node), self._kind)

    def _opened_keeper(self) -> Any:
        """The actor, begun if there is none; on the head where that can be: it lives longest."""
        with self._guard:
            if self._keeper is None:
                alive = alive_nodes()
                able = [node for node in self._nodes if node.id in alive]
                home = [node.id for node in able if node.is_head] or [node.id for node in able]
                self._keeper = (
                    ray.remote(Keeper)
                    .options(
                        name=f"paredown {content_hash(str(self._folder), length=16)}",
                        namespace=NAMESPACE, lifetime="detached", get_if_exists=True, num_cpus=0,
                        label_selector={"ray.io/node-id": f"in({','.join(home)})"},
                    ).remote()
                )  # fmt: skip
            return self._keeper

    def _forget(self, keeper: Any) -> None:
        with self._guard:
            if self._keeper is keeper:
                self._keeper = None


def _places(model: Path, config: RunConfig) -> tuple[Path, ...]:
    """Files and folders that jobs read, by the paths that they have here."""
    named = [config.data, config.calibration.source, *config.evaluate.benchmarks]
    files = [Path(name).absolute() for name in named if name and Path(name).exists()]
    data = config.data_dir or os.environ.get("PAREDOWN_DATA")
    folders = [model.resolve(), Path.cwd(), *([Path(data).absolute()] if data else [])]
    return tuple(dict.fromkeys([*folders, *files]))
