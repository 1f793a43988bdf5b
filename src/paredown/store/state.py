"""Whether somebody works in an experiment folder, and how far: asked of the folder alone.

A run holds a lock, which tells surely where the folder is on a disk of the asking machine, and on
most network file systems. Besides it leaves a sign of life, for those that pass no locks on.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from paredown.spec.serial import SCHEMA_VERSION

State = Literal["finished", "running", "interrupted"]
PROGRESS_FILE = "progress.json"
FINAL_FILE = "final_results.json"
BEAT_S = 5.0
"""A run tells that it is alive at least this often."""
_ALIVE_S = 12 * BEAT_S
"""Age of a sign of life up to which it counts: clocks of two machines differ a little."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What a run is doing, as it says itself.

    Attributes:
        time: when it was said, seconds since 1970.
        host: machine that the run is on.
        episode: under way; None before the first.
        stage: as `compress`.
        share: of the stage that is done.
        message: the stage in words.
        left_s: seconds until the end of the run; None while nothing is known yet.
        paused: whether it waits, or will after the episode under way.
        stopping: whether it ends after the episode under way.
    """

    time: float
    host: str
    episode: int | None = None
    stage: str = ""
    share: float = 0.0
    message: str = ""
    left_s: float | None = None
    paused: bool = False
    stopping: bool = False


def write_moment(folder: Path, moment: Moment) -> None:
    """Replace the sign of life. Not synced to the disk: after a crash it would be stale anyway, and
    a sync in the middle of a latency measurement would disturb it."""
    document = {"schema_version": SCHEMA_VERSION, **asdict(moment)}
    temporary = folder / f".{PROGRESS_FILE}"
    temporary.write_text(json.dumps(document), encoding="utf-8")
    temporary.replace(folder / PROGRESS_FILE)


def read_moment(folder: Path) -> Moment | None:
    """The last sign of life; None where there is none, or none that this version reads."""
    try:
        found: Any = json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("time"), int | float):
        return None
    if found.get("schema_version") != SCHEMA_VERSION or not isinstance(found.get("host"), str):
        return None
    return Moment(**{f.name: found[f.name] for f in fields(Moment) if f.name in found})


def state_in(folder: Path) -> State:
    """Whether a process is at work in the folder, and if not, whether the run came to its end."""
    if is_locked(folder) or _is_alive_elsewhere(folder):
        return "running"
    return "finished" if (folder / FINAL_FILE).is_file() else "interrupted"


def is_locked(folder: Path) -> bool:
    """Whether another process holds the lock; a shared lock is taken and dropped at once."""
    try:
        handle = os.open(folder / ".lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _is_alive_elsewhere(folder: Path) -> bool:
    """Whether a run on another machine has told of itself just now; of this one the lock tells."""
    moment = read_moment(folder)
    if moment is None or moment.host == platform.node():
        return False
    return abs(time.time() - moment.time) < _ALIVE_S
