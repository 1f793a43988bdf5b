"""What workers do."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from paredown.blocks.probe import probe_tokens
from paredown.errors import VerificationError
from paredown.pipeline import messages
from paredown.pipeline.work import measure, perform, texts
from paredown.runtimes.packages import open_model
from paredown.runtimes.room import WORKER_BYTES
from paredown.runtimes.torch.load import load
from paredown.runtimes.torch.proof import probe
from paredown.runtimes.torch.runtime import Torch
from paredown.runtimes.transformers import Transformers
from paredown.spec.infer import infer_spec
from paredown.testing.tiny import tiny_model
from tests.samples import EVALUATE


def test_work_in_a_child_leaves_files_and_nothing_else(tmp_path: Path) -> None:
    made: list[int] = []

    def work() -> None:
        made.append(os.getpid())
        (tmp_path / "pid").write_text(str(os.getpid()))

    texts.in_child(work)
    assert made == []
    assert int((tmp_path / "pid").read_text()) != os.getpid()


def test_a_child_that_fails_ends(tmp_path: Path) -> None:
    texts.in_child(lambda: 1 / 0)
    assert list(tmp_path.iterdir()) == []


def test_a_job_is_measured_in_the_runtime_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model and base alike, quality included."""
    model = tiny_model(tmp_path / "model", "llama")
    opened: list[tuple[str, Path]] = []
    real = Transformers.open

    def watched(self: Transformers, folder: Path, **options: Any) -> Any:
        opened.append((self.name, folder))
        return real(self, folder, **options)

    monkeypatch.setattr(Transformers, "open", watched)
    monkeypatch.setattr(Torch, "open", lambda *_, **__: pytest.fail("another runtime was opened"))
    monkeypatch.setattr(
        texts, "windows", lambda *_, **__: torch.randint(1, 90, (2, 16), dtype=torch.int64)
    )
    other = tiny_model(tmp_path / "other", "llama", seed=1)
    job = messages.EvaluateJob(
        device="cpu", model=other, base_bytes=1, runtime="transformers",
        held_out=messages.HeldOut(
            base=model, config=EVALUATE,
            text=messages.TextSpec(evaluation="pydoc", calibration=None, data_dir=None),
        ),
    )  # fmt: skip
    perform(job, tmp_path, lambda share, message: None)
    assert ("transformers", model) in opened
    assert opened[0] == ("transformers", other)


@pytest.mark.parametrize(("text", "apart"), [("self", True), ("pydoc", False)])
def test_text_that_the_model_writes_is_written_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, apart: bool
) -> None:
    """Else the writing model would count as memory of the one that is measured."""
    model = tiny_model(tmp_path / "model", "llama")
    log = tmp_path / "readers"

    def windows(*_: Any, **__: Any) -> torch.Tensor:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return torch.zeros(1, 16, dtype=torch.int64)

    monkeypatch.setattr(texts, "windows", windows)
    measured = SimpleNamespace(measurements=[], notes=[], speed=[])
    monkeypatch.setattr(measure, "evaluate_folder", lambda *_, **__: measured)
    job = messages.EvaluateJob(
        device="cpu", model=model, base_bytes=1,
        held_out=messages.HeldOut(
            base=model, config=EVALUATE,
            text=messages.TextSpec(evaluation=text, calibration=None, data_dir=None),
        ),
    )  # fmt: skip
    perform(job, tmp_path, lambda share, message: None)
    readers = [int(line) for line in log.read_text().split()]
    assert readers[-1] == os.getpid()
    assert [reader != os.getpid() for reader in readers[:-1]] == [True] * apart


def streamed(base: Path, folder: Path, tmp_path: Path) -> messages.EvaluateDone:
    """What is measured of a model that must not be loaded."""
    job = messages.EvaluateJob(
        device="cpu", model=folder, base_bytes=1,
        held_out=messages.HeldOut(
            base=base, config=EVALUATE.model_copy(update={"stream": "always"}),
            text=messages.TextSpec(evaluation="pydoc", calibration=None, data_dir=None),
        ),
    )  # fmt: skip
    done = perform(job, tmp_path, lambda share, message: None)
    assert isinstance(done, messages.EvaluateDone)
    return done


def test_a_model_that_must_not_be_loaded_is_judged_and_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Torch, "open", lambda *_, **__: pytest.fail("it was loaded"))
    monkeypatch.setattr(
        texts, "windows", lambda *_, **__: torch.randint(1, 90, (2, 16), dtype=torch.int64)
    )
    base = tiny_model(tmp_path / "base", "llama")
    other = tiny_model(tmp_path / "other", "llama", seed=1)
    done = streamed(base, other, tmp_path)
    names = {found.name for found in done.measurements}
    assert {"perplexity", "perplexity_ratio", "kl", "top1_agreement", "size"} <= names
    assert not names & {"decode_latency", "peak_memory", "speedup", "energy_per_token"}
    assert any("without being loaded" in note for note in done.notes)


def test_an_artifact_that_must_not_be_loaded_is_proved_block_by_block(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "llama")
    tokens = probe_tokens(infer_spec(model).vocabulary or 2)
    meant = probe(load(model, dtype=torch.float32), tokens)
    expected = tmp_path / messages.EXPECTED
    job = messages.VerifyJob(
        device="cpu", artifact=model, expected=expected, plain=True, stream="always"
    )
    save_file({"logits": meant}, expected)
    done = perform(job, tmp_path, lambda share, message: None)
    assert isinstance(done, messages.VerifyDone)
    assert done.kl_paredown < 1e-6
    assert done.kl_transformers is None  # which would have to load it
    save_file({"logits": meant.roll(1, dims=-1)}, expected)
    with pytest.raises(VerificationError, match="block by block"):
        perform(job, tmp_path, lambda share, message: None)


def test_a_model_is_streamed_where_a_worker_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(tmp_path / "model", "llama")
    assert open_model(Torch(), model, device="cpu", stream="auto").whole
    monkeypatch.setenv(WORKER_BYTES, "1e6")  # less than this process has
    assert not open_model(Torch(), model, device="cpu", stream="auto").whole
    assert open_model(Torch(), model, device="cpu").whole  # who must time it, loads it
