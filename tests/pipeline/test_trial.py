"""Trials in real worker processes, on a tiny model: what works, and every way to fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from paredown.coordinate.setup import check_text
from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.pipeline import trial
from paredown.pipeline.bench import Bench
from paredown.pipeline.build import build
from paredown.pipeline.executors.local import LocalExecutor
from paredown.spec.result import FailureKind
from tests.samples import tiny_bench


@pytest.fixture
def bench(tmp_path: Path, executor: LocalExecutor) -> Bench:
    return tiny_bench(tmp_path, executor)


def test_a_trial_builds_proves_and_measures(bench: Bench, tmp_path: Path) -> None:
    base = trial.measure(bench, None, tmp_path / "episode_000", episode=0, timeout_s=100)
    assert base.status == "ok"
    assert base.value("kl") == pytest.approx(0.0, abs=1e-6)
    assert base.value("top1_agreement") == 1.0
    assert base.compression_ratio == 1.0
    strategy = registry.canonical("rtn(bits=4, group_size=32)")
    folder = tmp_path / "episode_001"
    stages: list[str] = []
    built = build(
        bench, strategy, folder, folder / "artifact", timeout_s=100,
        watch=lambda stage, share, message: stages.append(stage),
    )  # fmt: skip
    assert built.failure is None
    result = trial.measure(
        bench, strategy, folder, episode=1, timeout_s=100, built=built, baseline=base
    )
    assert result.status == "ok"
    kl, size = result.get("kl"), result.get("size")
    assert kl is not None
    assert size is not None
    assert 0 < kl.value < 5
    assert kl.n > 1
    assert size.value == sum(f.stat().st_size for f in (folder / "artifact").glob("*.safetensors"))
    assert {m.name for m in result.measurements} >= {
        "perplexity", "accuracy", "kl", "top1_agreement", "decode_latency", "prefill_latency",
        "peak_memory", "size", "compression_ratio", "speedup",
    }  # fmt: skip
    assert sorted(p.name for p in folder.iterdir()) == ["artifact", "worker.log"]
    described = json.loads((folder / "artifact" / "paredown.json").read_text())
    assert described["strategy_text"] == str(strategy)
    assert {m["name"] for m in described["measurements"]} >= {"kl", "size"}


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("raise", FailureKind.METHOD_ERROR, "the library gave up"),
        ("crash", FailureKind.METHOD_ERROR, "SIGSEGV"),
        ("kill", FailureKind.OUT_OF_MEMORY, "killed from outside"),
        pytest.param("exit", FailureKind.METHOD_ERROR, "left no result", marks=pytest.mark.slow),
        ("lie", FailureKind.METHOD_ERROR, "not the one that was compressed"),
        ("nan", FailureKind.METHOD_ERROR, "not finite"),
    ],
)
def test_a_failing_library_becomes_a_record(
    bench: Bench, tmp_path: Path, how: str, kind: FailureKind, words: str
) -> None:
    strategy = registry.canonical(f'faulty(how="{how}")')
    out = tmp_path / "artifact"
    built = build(bench, strategy, tmp_path / "jobs", out, timeout_s=100)
    assert built.failure is not None
    assert built.failure.kind is kind
    assert words in built.failure.message
    assert not out.exists()
    assert not list(tmp_path.glob(".artifact.partial-*"))
    after = registry.canonical("rtn(group_size=32)")  # the executor goes on
    assert build(bench, after, tmp_path / "next", out, timeout_s=100).failure is None


def test_a_candidate_is_screened_only_where_that_is_asked(bench: Bench, tmp_path: Path) -> None:
    ruined = registry.canonical('faulty(how="ruin")')
    out = tmp_path / "artifact"
    stopped = build(bench, ruined, tmp_path / "jobs", out, timeout_s=100, worst=1.2)
    assert stopped.failure is not None
    assert stopped.failure.kind is FailureKind.SCREENED
    assert stopped.failure.stage == "verify"
    assert not stopped.config_error
    assert not out.exists()
    assert build(bench, ruined, tmp_path / "jobs", out, timeout_s=100).failure is None


def test_an_artifact_of_other_bytes_than_predicted_fails(bench: Bench, tmp_path: Path) -> None:
    """It reloads, because nothing has been done to it; but it passed as eight bits."""
    idle = registry.canonical('faulty(how="nothing")')
    built = build(bench, idle, tmp_path / "jobs", tmp_path / "a", timeout_s=100)
    assert built.failure is not None
    assert built.failure.kind is FailureKind.METHOD_ERROR
    assert "not done to every layer what it says" in built.failure.message
    assert not (tmp_path / "a").exists()


def test_a_method_that_cannot_know_its_bytes_may_differ(bench: Bench, tmp_path: Path) -> None:
    unsure = registry.canonical('faulty(how="guess")')
    built = build(bench, unsure, tmp_path / "jobs", tmp_path / "a", timeout_s=100)
    assert built.failure is None
    (note,) = (note for note in built.notes if note.startswith("forecast at "))
    assert "what faulty leaves is known once it has measured the model" in note


def test_an_artifact_that_is_not_what_was_meant_fails_for_that_however_bad_it_is(
    bench: Bench, tmp_path: Path
) -> None:
    wrong = registry.canonical('faulty(how="lie")')
    built = build(bench, wrong, tmp_path / "jobs", tmp_path / "a", timeout_s=100, worst=1e-6)
    assert built.failure is not None
    assert built.failure.kind is FailureKind.METHOD_ERROR
    assert "not the one that was compressed" in built.failure.message


def test_a_text_that_has_to_be_written_first_does_not_stop_the_screen(
    bench: Bench, tmp_path: Path
) -> None:
    """As in a resumed run whose cache was cleared: neither text nor base's outputs are there."""
    own = replace(bench, text=check_text("self", None, None))
    built = build(
        own, registry.canonical("rtn(group_size=32)"), tmp_path / "jobs", tmp_path / "a",
        timeout_s=90, worst=4.0,
    )  # fmt: skip
    assert built.failure is None


def test_a_hanging_method_is_stopped(bench: Bench, tmp_path: Path) -> None:
    strategy = registry.canonical('faulty(how="hang")')
    built = build(bench, strategy, tmp_path / "jobs", tmp_path / "artifact", timeout_s=6)
    assert built.failure is not None
    assert built.failure.kind is FailureKind.TIMEOUT
    assert built.seconds < 60


def test_a_greedy_method_is_stopped(bench: Bench, executor: LocalExecutor, tmp_path: Path) -> None:
    executor.memory_bytes = 1.5e9
    strategy = registry.canonical('faulty(how="memory")')
    built = build(bench, strategy, tmp_path / "jobs", tmp_path / "artifact", timeout_s=100)
    assert built.failure is not None
    assert built.failure.kind is FailureKind.OUT_OF_MEMORY
    assert "the limit is 1.5 GB" in built.failure.message


def test_a_base_that_cannot_be_measured_is_an_error(bench: Bench, tmp_path: Path) -> None:
    (bench.base.folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="the base model could not be measured"):
        trial.measure(bench, None, tmp_path / "episode_000", episode=0, timeout_s=100)
