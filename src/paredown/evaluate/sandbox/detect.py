"""Choosing a sandbox: the strongest that is seen to hold on this machine."""

from __future__ import annotations

from functools import cache

from paredown.errors import ConfigError
from paredown.evaluate.sandbox.levels import Level, obstacle
from paredown.evaluate.sandbox.run import Check, Sandbox, SandboxError, SandboxLimits


def open_sandbox(
    limits: SandboxLimits | None = None, *, allow_unsandboxed: bool = False
) -> Sandbox:
    """The strongest sandbox that works here.

    Args:
        limits: what one check may use.
        allow_unsandboxed: where none works, run with limits alone.

    Raises:
        ConfigError: none works and `allow_unsandboxed` is false, or Windows.
    """
    limits = limits or SandboxLimits()
    level, why_not = detect()
    if level is not None:
        return Sandbox(level, limits)
    unable = obstacle(Level.LIMITS)
    if allow_unsandboxed and unable is None:
        return Sandbox(Level.LIMITS, limits)
    raise ConfigError(
        f"running model-written code needs a sandbox, and none works here ({why_not}); "
        + (unable or "install bubblewrap, or allow it with --allow-unsandboxed-code")
    )


@cache
def detect() -> tuple[Level | None, str]:
    """The strongest level that was seen to hold, and why those above it do not work."""
    reasons: list[str] = []
    for level in (Level.BUBBLEWRAP, Level.LANDLOCK):
        reason = obstacle(level) or _leak(level)
        if reason is None:
            return level, "; ".join(reasons)
        reasons.append(f"{level}: {reason}")
    return None, "; ".join(reasons)


_PROBE = """
import os, socket

def succeeded():
    attempts = {
        "read files": lambda: open("/etc/passwd").close(),
        "write files": lambda: open("/tmp/paredown", "w").close(),
        "use the network": socket.socket,
        "start processes": os.fork,
    }
    found = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError:
            continue
        found.append(name)
    return found
"""


def _leak(level: Level) -> str | None:
    """Why `level` is of no use here, found out by a program that tries to break out."""
    test = "def check(candidate):\n    found = candidate()\n    if found: raise Exception(found)"
    probe = Check(program=_PROBE, entry_point="succeeded", test=test)
    try:
        outcome = Sandbox(level).check(probe)
    except SandboxError as error:
        return str(error)
    return None if outcome.passed else f"it leaks: {outcome.reason}"
