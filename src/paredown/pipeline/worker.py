"""The process in which one job runs, and the process that keeps torch warm for it.

Importing torch and transformers takes seconds, so one process imports them once and forks for
every job (`serve`): each job still begins with nothing but the imports. Where fork is missing,
every job starts an interpreter of its own (`python -m paredown.pipeline.worker FOLDER`).
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from paredown.errors import ConfigError, DivergedError, ParedownError, ScreenedError
from paredown.pipeline.messages import JOB, AnyDone, Failed
from paredown.spec.result import Failure, FailureKind
from paredown.store.atomic import write_json


class ProgressFile:
    """Writes the share done and a message where the parent looks for them."""

    def __init__(self, folder: Path) -> None:
        self.path, self._last = folder / "progress.json", 0.0

    def __call__(self, share: float, message: str) -> None:
        now = time.monotonic()
        if now - self._last < 0.2 and share < 1:
            return
        self._last = now
        partial = self.path.with_suffix(".tmp")
        partial.write_text(json.dumps({"share": share, "message": message}))
        partial.replace(self.path)


def main(folder: Path) -> int:
    """Run the job in `folder`, write `result.json`, and return the exit code."""
    from paredown.pipeline.work import perform

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    _quiet_libraries()
    job = JOB.validate_json((folder / "job.json").read_text())
    reply: AnyDone | Failed
    try:
        reply = perform(job, folder, ProgressFile(folder))
    except Exception as error:  # noqa: BLE001  the one place where any failure becomes a record
        traceback.print_exc()
        reply = failed(error, stage=job.kind)
    write_json(folder / "result.json", reply)
    return 1 if isinstance(reply, Failed) else 0


def failed(error: Exception, *, stage: str) -> Failed:
    """What an exception that ended a job says of the strategy, or of the request."""
    text = str(error).strip() or type(error).__name__
    name = type(error).__name__
    kind = FailureKind.METHOD_ERROR
    # Not every library has a class for it: torch on a CPU raises a RuntimeError.
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate" in text:
        kind, text = FailureKind.OUT_OF_MEMORY, text.splitlines()[0]
    elif isinstance(error, DivergedError):
        kind = FailureKind.DIVERGED
    elif isinstance(error, ScreenedError):
        kind = FailureKind.SCREENED
    elif not isinstance(error, ParedownError):
        text = f"{name}: {text.splitlines()[0]}"
    return Failed(
        failure=Failure(kind=kind, message=text, stage=stage),
        config_error=isinstance(error, ConfigError),
    )


def _quiet_libraries() -> None:
    """Progress bars of libraries belong into no log file."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def serve() -> None:
    """Read job folders from stdin, one a line; fork for each; answer with pid and exit status.

    Ends, and takes a running job with it, when stdin is closed: when the parent is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    import transformers.models.auto.modeling_auto  # noqa: F401

    import paredown.pipeline.work  # noqa: F401

    _say({"ready": True})
    while True:
        line = sys.stdin.buffer.readline()
        if not line:
            return
        _fork_job(Path(line.decode().rstrip("\n")))


def _fork_job(folder: Path) -> None:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        _die_with_parent()
        log = os.open(folder / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        code = 70
        try:
            code = main(folder)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _say({"pid": pid})
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            _say({"exit": os.waitstatus_to_exitcode(status)})
            return
        readable, _, _ = select.select([sys.stdin], [], [], 0.05)
        if readable:  # the parent says nothing while a job runs: it is gone
            os.killpg(pid, signal.SIGKILL)
            os._exit(0)


def _die_with_parent() -> None:
    """Ask Linux to end this process with its parent; elsewhere nothing."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        sys.exit(main(Path(sys.argv[1])))
