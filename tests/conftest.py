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

settings.register_profile("paredown", deadline=None)  # machines differ, and are shared
settings.load_profile("paredown")


@pytest.fixture(autouse=True)
def isolated_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of paredown that ends with the test."""
    folder = tmp_path / "paredown-home"
    monkeypatch.setenv("PAREDOWN_HOME", str(folder))
    for name in ("PAREDOWN_DATA", "PAREDOWN_CACHE_GB"):
        monkeypatch.delenv(name, raising=False)
    return folder
