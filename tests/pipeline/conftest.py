from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paredown.pipeline.executors.local import LocalExecutor
from paredown.spec import plugins


@pytest.fixture(scope="session")
def shared_executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExecutor]:
    """One executor for all tests, with `faulty.py` installed as a package would be."""
    site = tmp_path_factory.mktemp("site")
    info = site / "faulty_method-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copyfile(Path(__file__).with_name("faulty.py"), site / "faulty_method.py")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-method\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[paredown.methods]\nfaulty = faulty_method:Faulty\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        sys.path.insert(0, str(site))
        plugins.installed.cache_clear()
        with LocalExecutor() as executor:
            executor.start()
            yield executor
        sys.path.remove(str(site))
    plugins.installed.cache_clear()


@pytest.fixture
def executor(shared_executor: LocalExecutor) -> LocalExecutor:
    shared_executor.memory_bytes = None
    return shared_executor
