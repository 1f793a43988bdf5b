"""What workers do."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from paredown.pipeline import messages
from paredown.pipeline.work import measure, perform, texts
from paredown.runtimes.torch.runtime import Torch
from paredown.runtimes.transformers import Transformers
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
