"""An engine with files of its own in the pipeline: packages by content, proof, memory, a trial."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paredown.coordinate.setup import open_base
from paredown.errors import ConfigError, VerificationError
from paredown.evaluate.memory import MemoryWatch
from paredown.methods import registry
from paredown.pipeline import trial
from paredown.pipeline.build import build
from paredown.pipeline.executors.local import LocalExecutor
from paredown.pipeline.work.engine import arithmetic_kl, engine_kl
from paredown.runtimes.base import Engine
from paredown.runtimes.packages import open_model, package_of
from paredown.runtimes.registry import engine
from paredown.runtimes.torch.load import load
from paredown.runtimes.torch.proof import probe
from paredown.spec.infer import infer_spec
from paredown.testing.tiny import VOCABULARY, tiny_model
from paredown.text.ascii import write_byte_tokenizer
from tests.samples import tiny_bench

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")


@pytest.fixture
def llama() -> Engine:
    return engine("llama.cpp")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tiny_model(tmp_path / "base", tokenizer=False)
    write_byte_tokenizer(folder)
    return folder


def test_a_package_is_made_once_and_again_when_the_model_changes(
    llama: Engine, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    export = type(llama).export

    def counting(self: Engine, artifact: Path, out: Path) -> object:
        made.append(artifact)
        return export(self, artifact, out)

    monkeypatch.setattr(type(llama), "export", counting)
    first = package_of(llama, base)
    assert package_of(llama, base) == first
    assert len(made) == 1
    assert first.folder != base
    tiny_model(base, tokenizer=False, seed=1)
    assert package_of(llama, base).folder != first.folder
    assert len(made) == 2


def test_an_engine_that_reads_the_artifact_makes_no_copy(base: Path) -> None:
    assert package_of(engine("torch"), base).folder == base


def test_another_model_is_no_proof(llama: Engine, base: Path) -> None:
    tokens = torch.randint(1, VOCABULARY, (1, 32), generator=torch.Generator().manual_seed(0))
    expected = probe(load(base, dtype=torch.float32), tokens)
    assert engine_kl(llama, base, expected, tokens) < 1e-4
    assert arithmetic_kl(llama, base, tokens, dtype=torch.float32) < 1e-4
    with pytest.raises(VerificationError, match=r"in llama\.cpp, the model is not the one"):
        engine_kl(llama, base, 30 * expected, tokens)


def test_what_it_does_not_hold_is_told_with_what_would_do(llama: Engine, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "opt", "opt")
    with pytest.raises(ConfigError, match=r"llama\.cpp cannot load it: the family opt"):
        open_model(llama, folder, device="cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is reset through /proc")
def test_memory_is_that_of_the_engines_process() -> None:
    """300 MB here are no memory of a process that takes 60."""
    code = "import sys; a = bytearray(60_000_000); print(flush=True); sys.stdin.read()"
    watch = MemoryWatch("cpu")
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        with watch.phase("load"):
            other.stdout.readline()
            watch.follow(other.pid)
        with watch.phase("decode"):
            torch.ones(300_000_000, dtype=torch.uint8).sum()
        assert 60e6 < watch.peaks["load"] < 120e6
        assert 60e6 < watch.peaks["decode"] < 120e6
        assert watch.highest < 120e6


def test_following_ones_own_process_changes_nothing() -> None:
    watch = MemoryWatch("cpu")
    before = watch.highest
    watch.follow(os.getpid())
    assert watch.highest >= before


@pytest.mark.slow
def test_a_trial_is_built_proved_and_measured_in_llama_cpp(
    tmp_path: Path, base: Path, executor: LocalExecutor
) -> None:
    bench = replace(
        tiny_bench(tmp_path, executor),
        base=open_base("tiny", base, infer_spec(base, name="tiny")),
        runtime="llama.cpp",
    )
    strategy = registry.canonical("rtn(bits=4, group_size=32)")
    folder = tmp_path / "episode_001"
    built = build(bench, strategy, folder, folder / "artifact", timeout_s=300)
    assert built.failure is None
    assert any(note.startswith("llama.cpp answers as the artifact") for note in built.notes)
    assert [f.known for f in built.loads_in if f.runtime == "llama.cpp"] == ["checked"]
    result = trial.measure(bench, strategy, folder, episode=1, timeout_s=300, built=built)
    assert result.failure is None
    size, memory, speed = (result.get(n) for n in ("size", "peak_memory", "speedup"))
    assert size is not None
    assert memory is not None
    assert speed is not None
    assert "files of llama.cpp" in size.how
    # Of a process without torch, which alone takes more.
    assert memory.value < 150e6
    assert speed.n > 1
