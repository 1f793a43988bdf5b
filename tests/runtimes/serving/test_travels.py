"""What travels with a package is all that its server imports of paredown."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from paredown.errors import ConfigError, MissingExtraError
from paredown.runtimes.base import SERVER, Package, Serving
from paredown.runtimes.registry import engine

MODULES = {"onnxruntime": "onnxruntime_genai", "openvino": "openvino"}
CODE = """
import importlib, json, sys
importlib.import_module("paredown.runtimes.{name}.loaded")
import paredown.runtimes.serving.main
files = [m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] == "paredown"]
print(json.dumps({{"from": files, "torch": "torch" in sys.modules}}))
"""


@pytest.mark.parametrize("name", MODULES)
def test_the_server_runs_from_the_package_alone(name: str, tmp_path: Path) -> None:
    pytest.importorskip(MODULES[name])
    files = engine(name).server_files()
    assert SERVER in files
    for place, file in files.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, tmp_path / place)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(name=name)], env=environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["torch"] is False
    # Each file was needed, but for the one that is run and its `__init__`s; none came from here.
    assert {Path(file) for file in told["from"]} == {tmp_path / p for p in files if p != SERVER}


@pytest.mark.parametrize("name", MODULES)
def test_a_server_that_cannot_run_is_told_before_it_starts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(MODULES[name])
    package = Package(runtime=name, folder=tmp_path, nbytes=1)
    with pytest.raises(ConfigError, match="q8_0"):
        engine(name).server(package, host="h", port=1, serving=Serving(cache="q8_0"))
    monkeypatch.setattr(
        "paredown.runtimes.base.find_spec", lambda n: None if n == "uvicorn" else find_spec(n)
    )
    with pytest.raises(MissingExtraError, match=r"paredown\[serve\]"):
        engine(name).server(package, host="h", port=1)
