"""Which nodes of a cluster are used for what; no cluster is begun here."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray")
from paredown.artifact.description import library_versions
from paredown.errors import ConfigError
from paredown.hardware.detect import Gpu, detect
from paredown.pipeline.executors.demand import Demand
from paredown.pipeline.executors.ray import cluster, node
from paredown.pipeline.executors.ray.cluster import Node, measuring_kind, require_room
from paredown.pipeline.executors.ray.order import Seen
from paredown.spec.units import GB

GPU = Gpu(name="H", memory_bytes=80, free_bytes=80, compute_capability="9.0")


def seen(cpu: str = "A", *, gpu: bool = False, **more: object) -> Seen:
    machine = detect().model_copy(update={"cpu": cpu, "gpus": (GPU,) if gpu else ()})
    fields = {
        "machine": machine, "versions": library_versions(), "torch_has_cuda": gpu,
        "no_energy": "", "missing": (), **more,
    }  # fmt: skip
    return Seen(**fields)  # type: ignore[arg-type]


def made(address: str, cpu: str = "A", *, gpu: bool = False, gigabytes: float = 16) -> Node:
    return Node(
        id=address, address=address, cpus=4, gpus=float(gpu), memory_bytes=gigabytes * GB,
        is_head=False, seen=seen(cpu, gpu=gpu),
    )  # fmt: skip


def test_time_is_measured_on_one_kind_of_machine() -> None:
    few, many = made("1", "B"), (made("2"), made("3"))
    with_gpu = made("4", "C", gpu=True)
    nodes = (few, *many, with_gpu)
    kind = [n.seen.machine.id for n in nodes]
    assert measuring_kind(nodes, device="cpu", before=None) == kind[1]  # the most frequent one
    assert measuring_kind(nodes, device="auto", before=None) == kind[3]
    assert measuring_kind(nodes, device="auto", before=kind[0]) == kind[0]  # as the base was
    assert measuring_kind(nodes, device="cpu", before="gone") == kind[1]


def test_a_stage_that_fits_nowhere_is_refused_with_what_there_is() -> None:
    nodes = (made("10.0.0.1"), made("10.0.0.2", gpu=True))
    cluster.require_room(nodes, Demand(stage="verify", memory_bytes=10**9, gpus=1), address="x")
    asked = Demand(stage="evaluate", memory_bytes=40 * 10**9, gpus=1)
    with pytest.raises(ConfigError) as error:
        require_room(nodes, asked, address="10.0.0.1:6379")
    assert "(10.0.0.1:6379) takes the stage evaluate" in str(error.value)
    assert "1 CPU, 1 GPU and 40.0 GB of memory" in str(error.value)
    assert "10.0.0.2 (4 CPU, 1 GPU, 16.0 GB" in str(error.value)


def test_a_node_that_sees_other_files_or_has_other_libraries_is_not_used(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("theirs")
    found = node.look([str(tmp_path), str(tmp_path / "model")], {str(token): "mine"})
    assert found.missing == (str(tmp_path / "model"), str(tmp_path))
    assert "does not see" in cluster._unfit(found)
    older = seen(versions={**library_versions(), "torch": "2.1.0+cu118"})
    assert "torch 2.1.0+cu118 there" in cluster._unfit(older)
    other_build = seen(versions={**library_versions(), "torch": _public("torch") + "+cu999"})
    assert cluster._unfit(other_build) == ""


def test_no_cluster_is_said_at_once() -> None:
    with (
        pytest.raises(ConfigError, match=r"no Ray cluster at 127\.0\.0\.1:9.*ray start --head"),
        cluster.connected("127.0.0.1:9"),
    ):
        pass


def _public(name: str) -> str:
    return library_versions()[name].partition("+")[0]
