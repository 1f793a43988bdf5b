"""How strong a sandbox this machine can give, found out by trying."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from enum import StrEnum
from pathlib import Path

from paredown.evaluate.sandbox.seccomp import seccomp_machine


class Level(StrEnum):
    """What keeps the code in, strongest first."""

    BUBBLEWRAP = "bubblewrap"
    """Namespaces of its own (no network, no other process, a file system of the system's
    libraries alone, read-only), then seccomp, no capabilities, limits."""
    LANDLOCK = "landlock"
    """The user's view of the machine, of which it can read the system's libraries alone and write
    nothing; then seccomp, no capabilities, limits. Needs no privilege and no extra program."""
    LIMITS = "limits"
    """Limits on time, memory and files' sizes alone: NOT a sandbox."""

    @property
    def meaning(self) -> str:
        """In words, for results."""
        return _MEANING[self]


_MEANING = {
    Level.BUBBLEWRAP: "sandbox: bubblewrap (own namespaces) + seccomp + limits",
    Level.LANDLOCK: "sandbox: Landlock + seccomp + limits",
    Level.LIMITS: "NO SANDBOX, only limits, as the user allowed",
}


def obstacle(level: Level) -> str | None:
    """Why `level` cannot even be tried here; None if it can."""
    if sys.platform == "win32":
        return "Windows has none of the limits that are needed"
    if level is not Level.LIMITS and seccomp_machine() is None:
        return "it needs Linux on x86-64 or aarch64"
    if level is Level.BUBBLEWRAP and shutil.which("bwrap") is None:
        return "bwrap is not installed"
    return None


def readable_paths() -> list[str]:
    """What Python itself reads: its standard library and the system's shared libraries."""
    paths = [
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib", vars={"platbase": sys.base_exec_prefix}),
        str(Path(sys.base_prefix) / "lib"),  # libraries that its extension modules load
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/etc/ld.so.cache",
    ]
    real = {Path(path).resolve() for path in paths if Path(path).exists()}
    return sorted(str(path) for path in real if not real & set(path.parents))


def interpreter() -> str:
    """The real interpreter: that of a virtual environment is a link to it."""
    base: str = getattr(sys, "_base_executable", sys.executable)
    return os.path.realpath(base)


def bubblewrap_prefix() -> list[str]:
    """The command that runs what follows in namespaces of its own, as if alone on the machine."""
    # By its full path: the sandbox is started without the user's PATH, where conda has its own.
    command = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--cap-drop",
        "ALL",
    ]
    for path in [*readable_paths(), interpreter()]:
        command += ["--ro-bind", path, path]
    for link in ("/lib", "/lib64"):  # where the loader is looked for
        if Path(link).is_symlink():
            command += ["--symlink", str(Path(link).readlink()), link]
    command += ["--dev-bind", os.devnull, os.devnull]
    return [*command, "--remount-ro", "/", "--chdir", "/", "--"]
