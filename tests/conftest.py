"""No test reads or writes the user's folders, and none reaches for the hub."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before the first test imports the libraries that read them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["LANGUAGE"] = "en"  # whoever runs the tests may read another

settings.register_profile("paredown", deadline=None)  # machines differ, and are shared
settings.load_profile("paredown")


@pytest.fixture(scope="session")
def kernel_answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What kernels have answered (`runtimes.kernels`), shared by all tests and all workers.

    It is true of the machine, not of a test, and each first question costs seconds.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "kernel-answers"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def isolated_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, kernel_answers: Path
) -> Path:
    """A home of paredown that ends with the test; only the answers of kernels stay."""
    folder = tmp_path_factory.mktemp("paredown-home")
    (folder / "cache").mkdir(parents=True)
    (folder / "cache" / "kernels").symlink_to(kernel_answers, target_is_directory=True)
    monkeypatch.setenv("PAREDOWN_HOME", str(folder))
    # Else tests that run side by side would wait until each other's jobs have ended.
    monkeypatch.setenv("PAREDOWN_LOCKS", str(folder / "locks"))
    for name in ("PAREDOWN_DATA", "PAREDOWN_CACHE_GB"):
        monkeypatch.delenv(name, raising=False)
    return folder
