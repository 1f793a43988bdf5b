"""The process in which one job runs.

A job is a folder: `job.json` goes in; `progress.json`, `worker.log` and `result.json` come out.
Files, not pipes, so that nothing is lost with the process.
"""

from __future__ import annotations

import ctypes
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from paredown.errors import ConfigError, DivergedError, ParedownError, ScreenedError
from paredown.pipeline.messages import JOB, AnyDone, Failed
from paredown.runtimes.room import WORKER_THREADS
from paredown.spec.redact import redact
from paredown.spec.result import Failure, FailureKind
from paredown.store import cache
from paredown.store.atomic import write_json

JOB_FILE, RESULT_FILE, PROGRESS_FILE = "job.json", "result.json", "progress.json"
MENDED_FILE = "mended.json"
"""What was found damaged in the cache, and computed again: a list of sentences."""
PARENT = "PAREDOWN_PARENT"
"""Environment variable that tells a fork server, which takes no arguments, whose it is."""
_TELL_S = 0.2
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True)
class Surroundings:
    """What a worker takes over from the process that wants the job done, as it is at that time.

    A fork server is older than the job: its environment and working folder may be others.
    """

    folder: Path
    working: Path
    environment: dict[str, str]
    methods: bytes = b""
    """What the program has registered of its own (`methods.registered.packed`); none if empty."""


def run_worker(given: Surroundings) -> None:
    """Do the job in `given.folder` and end this process; never returns."""
    os.setsid()  # a group of its own, so that it can be ended with all that it starts
    _die_with_parent()
    _redirect(given.folder / "worker.log")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(given.environment | {"TOKENIZERS_PARALLELISM": "false"})
    os.chdir(given.working)
    code = 70
    try:
        if given.methods:
            _register(given.methods)
        code = run_folder(given.folder)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # At once: what libraries do at exit may hang, and the result stands in its file.
        os._exit(code)


def _register(packed: bytes) -> None:
    from paredown.methods import registered, registry

    for method in registered.unpacked(packed):
        registry.register(method)


def run_folder(folder: Path) -> int:
    """Run the job in `folder`, write its result, and return the exit code."""
    from paredown.pipeline.work import perform  # torch: not for who only names this module

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    _quiet_libraries()
    _limit_threads()
    job = JOB.validate_json((folder / JOB_FILE).read_text())
    reply: AnyDone | Failed
    mended = _Heard()
    logging.getLogger(cache.__name__).addHandler(mended)
    try:
        reply = perform(job, folder, ProgressFile(folder))
    except Exception as error:  # noqa: BLE001  the one place where any failure becomes a record
        traceback.print_exc()
        reply = failed(error, stage=job.kind)
    finally:
        logging.getLogger(cache.__name__).removeHandler(mended)
    if mended.said:
        write_json(folder / MENDED_FILE, mended.said)
    write_json(folder / RESULT_FILE, reply)
    return 1 if isinstance(reply, Failed) else 0


class _Heard(logging.Handler):
    """Keeps the warnings of a logger."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(redact(record.getMessage()))


def failed(error: Exception, *, stage: str) -> Failed:
    """What an exception that ended a job says of the strategy, or of the request."""
    name = type(error).__name__
    text = redact(str(error).strip()) or name  # words of other libraries, kept in records
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


class ProgressFile:
    """Writes the share done and a message where the parent looks for them."""

    def __init__(self, folder: Path) -> None:
        self.path, self._last = folder / PROGRESS_FILE, 0.0
        self._said = ""

    def __call__(self, share: float, message: str) -> None:
        now = time.monotonic()
        # A new message may be the last for minutes: only the same one again is left out.
        if message == self._said and now - self._last < _TELL_S and share < 1:
            return
        self._last, self._said = now, message
        partial = self.path.with_suffix(".tmp")
        partial.write_text(json.dumps({"share": share, "message": message}))
        partial.replace(self.path)


def _limit_threads() -> None:
    """Leave the processors' other parts to those who work beside this one."""
    import torch

    told = os.environ.get(WORKER_THREADS)
    if told is not None:
        torch.set_num_threads(int(told))


def _quiet_libraries() -> None:
    """Progress bars of libraries belong into no log file, and leave nothing behind."""
    import transformers
    from tqdm import tqdm

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # Even a disabled bar makes a lock for all processes, a named semaphore in a child of the fork
    # server. A worker ends without giving it back, and the user would read of "leaked semaphore
    # objects" at the end of the run. Bars of one process need no more than its threads' lock.
    tqdm.set_lock(threading.RLock())


def _redirect(log: Path) -> None:
    """Nothing to read, and a file for all that is said, by libraries in C as well."""
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.close(said)
    os.close(null)


def killed_with_parent() -> bool:
    """Have Linux kill this process when the *thread* that started it ends; False elsewhere.

    The kernel keeps this promise even while a library holds Python's lock for minutes.
    """
    if sys.platform != "linux":
        return False
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return True


def _die_with_parent() -> None:
    """End this process when the main process ends, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise AssertionError("a worker is a child process")
    if killed_with_parent():  # that is the fork server, which in turn ends with the main process
        if not parent.is_alive():  # it ended before the promise was made
            os._exit(0)
        return

    def end() -> None:
        parent.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end, daemon=True).start()
