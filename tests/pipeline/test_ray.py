"""Trials on a real Ray cluster: two nodes of this machine, on a tiny model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import paredown
from paredown.errors import ConfigError
from paredown.pipeline.executors.local import LocalExecutor
from paredown.pipeline.messages import Failed
from paredown.spec.infer import infer_spec
from paredown.spec.result import FailureKind, TrialResult
from paredown.spec.run import RunConfig
from paredown.testing.tiny import tiny_model
from tests.pipeline.test_local import make_job
from tests.ray_cluster import LocalCluster, local_cluster
from tests.samples import write_text_file

pytest.importorskip("ray")
from paredown.pipeline.executors.ray.executor import RayExecutor

pytestmark = pytest.mark.slow

SECOND, THIRD = "127.0.0.3", "127.0.0.4"
SAME = ("perplexity", "kl", "accuracy", "size", "compression_ratio")
"""What is no matter of time is the same wherever it was measured."""


@pytest.fixture(scope="module")
def cluster(shared_executor: LocalExecutor) -> Iterator[LocalCluster]:
    """A head that takes jobs, and a second node; methods that fail are known there as here."""
    with local_cluster() as found:
        found.start_head()
        found.start_node(SECOND)
        yield found


def settings(folder: Path, cluster: LocalCluster | None, **more: Any) -> dict[str, Any]:
    model = folder / "model"
    if not model.exists():
        tiny_model(model)
        write_text_file(folder / "text.txt")
    where = {} if cluster is None else {"executor": "ray", "address": cluster.address}
    return {
        "model": str(model), "data": str(folder / "text.txt"), "methods": ("rtn",),
        "policy": "grid", "skills": False, "output_dir": folder / "experiments",
        "calibration": {"samples": 4, "length": 64},
        "evaluate": {
            "tokens": 512, "window": 64, "prompt_tokens": 8, "decode_tokens": 4, "repeats": 2,
            "repeat_s": 0.1, "energy_s": 0,
        },
        **where, **more,
    }  # fmt: skip


def within(seconds: float, is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_so()


def assert_same(one: tuple[TrialResult, ...], other: tuple[TrialResult, ...]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert mine.strategy == theirs.strategy
        assert [mine.value(n) for n in SAME] == [theirs.value(n) for n in SAME]


def test_trials_on_two_nodes_come_to_what_they_come_to_here(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    there = paredown.optimize(
        **settings(tmp_path, cluster), episodes=3, workers=2, experiment_name="ray"
    ).record
    here = paredown.optimize(**settings(tmp_path, None), episodes=3, experiment_name="one").record
    assert {r.status for r in there.results} == {"ok"}
    by_episode = sorted(there.results, key=lambda r: r.episode)
    assert_same(tuple(by_episode), here.results)
    (event,) = [e for e in there.events if e["event"] == "cluster"]
    assert [node["address"] for node in event["nodes"]] == ["127.0.0.2", SECOND]
    # Both are this machine, whatever Ray calls them.
    assert {r.machine for r in there.results} == {r.machine for r in here.results}
    assert not list((tmp_path / "experiments" / "ray").rglob("attempts.json"))
    assert _keepers(cluster) == []


@contextmanager
def executor(cluster: LocalCluster, tmp_path: Path, **more: Any) -> Iterator[RayExecutor]:
    """One that has been told what stages need."""
    config = RunConfig(**settings_of_run(tmp_path, cluster, **more))
    folder = tmp_path / "experiment"
    folder.mkdir(exist_ok=True)
    with RayExecutor(
        folder=folder, address=cluster.address, workers=config.workers, memory_bytes=None
    ) as found:
        model = tmp_path / "model"
        found.require(model, infer_spec(model, name="tiny"), config, "cpu")
        yield found


def settings_of_run(tmp_path: Path, cluster: LocalCluster, **more: Any) -> dict[str, Any]:
    found = settings(tmp_path, cluster, **more)
    return {k: v for k, v in found.items() if k not in {"output_dir"}}


def test_a_job_on_a_node_is_watched_as_anywhere(cluster: LocalCluster, tmp_path: Path) -> None:
    with executor(cluster, tmp_path) as nodes:
        folder = tmp_path / "experiment"
        crash = nodes.submit(make_job(tmp_path, 'faulty(how="crash")'), folder / "a", timeout_s=100)
        failure = reply_of(crash).failure
        assert (failure.kind, failure.stage) == (FailureKind.METHOD_ERROR, "compress")
        assert "SIGSEGV" in failure.message
        hang = nodes.submit(make_job(tmp_path, 'faulty(how="hang")'), folder / "b", timeout_s=1)
        assert reply_of(hang).failure.kind is FailureKind.TIMEOUT


def test_a_job_whose_watcher_is_killed_is_done_again_and_not_for_ever(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    folder = tmp_path / "experiment" / "a"
    with executor(cluster, tmp_path) as nodes:
        job = make_job(tmp_path, 'faulty(how="hang")')
        future = nodes.submit(job, folder, timeout_s=200)
        for times in range(1, 4):
            assert within(60, lambda times=times: len(_attempts(folder)) == times)  # type: ignore[misc]
            assert within(60, (folder / "worker.log").exists)
            (watcher,) = [p for p in psutil.process_iter() if _watches(p)]
            watcher.kill()
        ended = future.result(timeout=100)
        assert isinstance(ended.reply, Failed)
        assert ended.reply.failure.kind is FailureKind.OUT_OF_MEMORY
        assert "killed 3 times" in ended.reply.failure.message
        assert all("where its process was killed" in note for note in ended.notes)


def test_what_is_closed_ends_at_once_and_leaves_nothing(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    folder = tmp_path / "experiment" / "a"
    with executor(cluster, tmp_path) as nodes:
        job = make_job(tmp_path, 'faulty(how="hang")')
        future = nodes.submit(job, folder, timeout_s=200)
        assert within(60, (folder / "worker.log").exists)
        nodes.close()
        with pytest.raises(CancelledError):
            future.result(timeout=0)
        assert within(10, lambda: not [p for p in psutil.process_iter() if _is_worker(p, folder)])


def test_a_lost_node_loses_nothing(cluster: LocalCluster, tmp_path: Path) -> None:
    cluster.start_node(THIRD)
    killed = threading.Event()

    def kill_when_busy() -> None:
        experiment = tmp_path / "experiments" / "ray"
        busy = within(100, lambda: any(THIRD in host for host in _hosts(experiment)))
        cluster.kill_node(THIRD)
        if busy:
            killed.set()

    killer = threading.Thread(target=kill_when_busy)
    killer.start()
    record = paredown.optimize(
        **settings(tmp_path, cluster), episodes=4, workers=3, experiment_name="ray"
    ).record
    killer.join()
    assert killed.is_set()
    assert {r.status for r in record.results} == {"ok"}
    assert [n for r in record.results for n in r.notes if "a node that was lost" in n]
    here = paredown.optimize(**settings(tmp_path, None), episodes=4, experiment_name="one").record
    assert_same(tuple(sorted(record.results, key=lambda r: r.episode)), here.results)


_DRIVER = """
import json, sys, time
from pathlib import Path
import paredown

@paredown.register_method("patient")
class Patient:
    def apply(self, model):
        import time
        time.sleep(8)

asked, seen = json.loads(sys.argv[1]), []
attempts = Path(asked["output_dir"]) / "e" / "episode_001" / "attempts.json"

def listen(event, fields):
    if event == "progress" and fields["stage"] == "compress" and attempts.exists():
        seen.append(json.loads(attempts.read_text()))

record = paredown.optimize(**asked, listen=listen).record
print(json.dumps({
    "status": [r.status for r in record.results], "seen": seen,
    "compress_s": record.results[1].compress_s,
}))
"""


def test_a_resumed_run_takes_up_what_goes_on(cluster: LocalCluster, tmp_path: Path) -> None:
    """Killed while a trial compresses, by a method of the user's own: the job goes on, and is not
    begun a second time."""
    asked = settings(tmp_path, cluster, methods=("patient",), episodes=1, experiment_name="e")
    asked["output_dir"] = str(asked["output_dir"])
    command = [sys.executable, "-c", _DRIVER]
    folder = tmp_path / "experiments" / "e" / "episode_001"
    driver = subprocess.Popen([*command, json.dumps(asked)])
    assert within(200, lambda: (folder / "worker.log").exists())
    first = json.loads((folder / "attempts.json").read_text())
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    again = subprocess.run(
        [*command, json.dumps(asked | {"resume": True})],
        check=True, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    told = json.loads(again.stdout.splitlines()[-1])
    assert told["status"] == ["ok", "ok"]
    assert {json.dumps(seen) for seen in told["seen"]} == {json.dumps(first)}
    assert told["compress_s"] > 8  # the seconds before the kill count, too
    assert _keepers(cluster) == []


def test_what_no_node_can_do_is_refused_before_the_start(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    asked = settings(tmp_path, cluster, worker_memory_gb=1e4)
    with pytest.raises(ConfigError, match=r"takes the stage compress, which asks for 1 CPU and"):
        paredown.optimize(**asked, episodes=1)
    assert not (tmp_path / "experiments").exists()


def test_a_node_without_the_package_is_named(cluster: LocalCluster, tmp_path: Path) -> None:
    cluster.start_node(THIRD, PYTHONPATH="")
    try:
        with pytest.raises(ConfigError, match=f"{THIRD}: paredown is not installed there"):
            paredown.optimize(**settings(tmp_path, cluster), episodes=1)
    finally:
        cluster.kill_node(THIRD)


def reply_of(future: Any) -> Failed:
    reply = future.result(timeout=120).reply
    assert isinstance(reply, Failed)
    return reply


def _attempts(folder: Path) -> list[dict[str, str]]:
    try:
        found: list[dict[str, str]] = json.loads((folder / "attempts.json").read_text())["attempts"]
    except FileNotFoundError:
        return []
    return found


def _hosts(experiment: Path) -> list[str]:
    folders = experiment.glob("episode_*")
    return [attempt["host"] for folder in folders for attempt in _attempts(folder)]


def _watches(process: psutil.Process) -> bool:
    """Whether it is Ray's process of a job."""
    try:
        return process.cmdline()[:1] == ["ray::paredown compress"]
    except psutil.Error:
        return False


def _is_worker(process: psutil.Process, folder: Path) -> bool:
    """Whether it writes into the log of a job."""
    try:
        return any(f.path == str(folder / "worker.log") for f in process.open_files())
    except psutil.Error:
        return False


def _keepers(cluster: LocalCluster) -> list[str]:
    import ray
    from ray.util import list_named_actors

    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        return [actor["name"] for actor in list_named_actors(all_namespaces=True)]
    finally:
        ray.shutdown()
