"""Worker processes: nothing of them is left, nothing of the user's is run again, no race."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import psutil
import pytest

from paredown.errors import ConfigError, DivergedError, MethodError, ScreenedError
from paredown.methods import registry
from paredown.pipeline.executors.local import LocalExecutor
from paredown.pipeline.executors.watch import read_reply
from paredown.pipeline.executors.worker import failed
from paredown.pipeline.messages import CompressDone, CompressJob, Failed, TextSpec
from paredown.spec.result import Failure, FailureKind
from paredown.testing.tiny import tiny_model


def make_job(folder: Path, strategy: str) -> CompressJob:
    model = folder / "model"
    if not model.exists():
        tiny_model(model)
    return CompressJob(
        device="cpu", model=model, model_name="tiny", model_hash="tiny",
        strategy=registry.canonical(strategy), out=folder / "artifact",
        text=TextSpec(evaluation="pydoc", calibration=None, data_dir=None),
        samples=2, length=16, seed=0,
    )  # fmt: skip


def within(seconds: float, is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_so()


SCRIPT = """
import sys, time
from pathlib import Path
from paredown.pipeline.executors.local import LocalExecutor
print("top level", flush=True)
executor = LocalExecutor()
executor.start()
if sys.argv[1:]:
    from paredown.methods import registry
    from paredown.pipeline.messages import CompressJob
    job = CompressJob.model_validate_json(Path(sys.argv[1]).read_text())
    future = executor.submit(job, Path("job"), timeout_s=100)
    if sys.argv[2:]:
        print(type(future.result().reply).__name__, flush=True)
        sys.exit()
time.sleep(100)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def descendants(parent: int) -> list[psutil.Process]:
    try:
        return psutil.Process(parent).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_a_fork_server_that_imports_ends_with_a_killed_main_process(script: Path) -> None:
    """Importing torch takes seconds, on a busy machine a minute; the user's Ctrl-\\ none."""
    main = subprocess.Popen([sys.executable, script], cwd=script.parent)
    assert within(60, lambda: len(descendants(main.pid)) == 2)  # the server, and its tracker
    left = descendants(main.pid)
    main.kill()
    main.wait()
    assert within(5, lambda: not alive(left))


@pytest.mark.slow
def test_a_killed_main_process_leaves_no_worker(
    script: Path, tmp_path: Path, shared_executor: LocalExecutor
) -> None:
    (tmp_path / "job.json").write_text(make_job(tmp_path, 'faulty(how="hang")').model_dump_json())
    main = subprocess.Popen([sys.executable, script, "job.json"], cwd=tmp_path)
    log = tmp_path / "job" / "worker.log"
    assert within(100, lambda: log.exists() and len(descendants(main.pid)) == 3)
    left = descendants(main.pid)
    main.kill()
    main.wait()
    assert within(5, lambda: not alive(left))


@pytest.mark.slow
@pytest.mark.parametrize("run", [["script.py"], ["-m", "script"]])
def test_a_script_without_a_guard_is_not_run_again(
    script: Path, tmp_path: Path, run: list[str]
) -> None:
    (tmp_path / "job.json").write_text(make_job(tmp_path, "rtn(group_size=32)").model_dump_json())
    done = subprocess.run(
        [sys.executable, *run, "job.json", "to the end"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.stdout.split("\n") == ["top level", "CompressDone", ""]
    assert done.stderr == ""


@pytest.mark.slow
def test_a_library_that_shows_a_bar_leaves_no_semaphore_behind(
    script: Path, tmp_path: Path, shared_executor: LocalExecutor
) -> None:
    """Python's resource tracker told of it at the end of a run, on the user's terminal."""
    (tmp_path / "job.json").write_text(make_job(tmp_path, 'faulty(how="bar")').model_dump_json())
    done = subprocess.run(
        [sys.executable, script, "job.json", "to the end"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert "after 2 steps" in (tmp_path / "job" / "worker.log").read_text()
    assert done.stdout.split("\n") == ["top level", "Failed", ""]
    assert done.stderr == ""


@pytest.mark.slow
def test_a_server_that_is_killed_before_it_is_ready_is_begun_again(
    script: Path, tmp_path: Path
) -> None:
    (tmp_path / "job.json").write_text(make_job(tmp_path, "rtn(group_size=32)").model_dump_json())
    main = subprocess.Popen(
        [sys.executable, script, "job.json", "to the end"],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def servers() -> list[psutil.Process]:
        return [p for p in descendants(main.pid) if "forkserver" in " ".join(p.cmdline())]

    assert within(60, lambda: bool(servers()) and (tmp_path / "job" / "job.json").exists())
    server = servers()[0]
    server.suspend()  # so that it begins no worker between the look and the kill
    begun = bool(server.children()) or (tmp_path / "job" / "worker.log").exists()
    server.kill()
    out, _ = main.communicate(timeout=200)
    if begun:  # on a busy machine the kill may come late, and then takes the worker with it
        pytest.skip("the server was ready before it could be killed")
    assert out.split() == ["top", "level", "CompressDone"]


def test_a_worker_has_the_surroundings_of_its_submission(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fork server is older, and was started elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAREDOWN_HOME", str(tmp_path / "another"))
    job = make_job(tmp_path, "random_structured(ratio=0.3)")
    relative = job.model_copy(update={"model": Path("model"), "out": Path("there")})
    reply = executor.submit(relative, Path("job"), timeout_s=100).result().reply
    assert isinstance(reply, CompressDone)
    assert (tmp_path / "there" / "config.json").exists()
    assert list((tmp_path / "another" / "cache").rglob("*.safetensors"))


def test_a_worker_begins_within_milliseconds(executor: LocalExecutor, tmp_path: Path) -> None:
    job = make_job(tmp_path, 'faulty(how="raise")')
    executor.submit(job, tmp_path / "first", timeout_s=100).result()  # torch is imported after it
    start = time.monotonic()
    reply = executor.submit(job, tmp_path / "second", timeout_s=100).result().reply
    assert isinstance(reply, Failed)
    assert time.monotonic() - start < 2  # importing torch alone takes longer


@pytest.mark.slow
def test_where_there_is_no_fork_a_job_is_done_as_well(tmp_path: Path) -> None:
    with LocalExecutor(start_method="spawn") as executor:
        job = make_job(tmp_path, "rtn(group_size=32)")
        reply = executor.submit(job, tmp_path / "job", timeout_s=200).result().reply
    assert isinstance(reply, CompressDone)


def test_close_ends_what_is_under_way_and_the_executor_can_be_used_again(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    hang = make_job(tmp_path, 'faulty(how="hang")')
    futures = [executor.submit(hang, tmp_path / f"{i}", timeout_s=100) for i in range(2)]
    assert within(60, lambda: all((tmp_path / f"{i}/worker.log").exists() for i in range(2)))
    executor.close()
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(timeout=10)
    works = make_job(tmp_path, "rtn(group_size=32)")
    reply = executor.submit(works, tmp_path / "3", timeout_s=100).result().reply
    assert isinstance(reply, CompressDone)


def test_a_listener_that_raises_ends_the_job_and_is_told(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    class BugError(Exception):
        pass

    def watch(share: float, message: str) -> None:
        raise BugError

    job = make_job(tmp_path, 'faulty(how="hang")')
    (tmp_path / "job").mkdir()
    future = executor.submit(job, tmp_path / "job", timeout_s=100, watch=watch)
    assert within(60, lambda: (tmp_path / "job" / "worker.log").exists())
    (tmp_path / "job" / "progress.json").write_text('{"share": 0.5, "message": "half"}')
    with pytest.raises(BugError):
        future.result(timeout=20)


@pytest.mark.slow
def test_what_a_library_started_ends_with_its_worker(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    """A time limit ends the whole group, not its first process alone."""
    job = make_job(tmp_path, 'faulty(how="children")')
    reply = executor.submit(job, tmp_path / "job", timeout_s=4).result().reply
    assert isinstance(reply, Failed)
    assert reply.failure.kind is FailureKind.TIMEOUT
    child = int((tmp_path / "artifact.pid").read_text())
    assert within(5, lambda: not psutil.pid_exists(child))


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (-signal.SIGKILL, FailureKind.OUT_OF_MEMORY, "killed from outside"),
        (-signal.SIGSEGV, FailureKind.METHOD_ERROR, "SIGSEGV"),
        (3, FailureKind.METHOD_ERROR, "ended with code 3 and left no result"),
    ],
)
def test_an_exit_code_tells_why_there_is_no_result(
    tmp_path: Path, code: int, kind: FailureKind, words: str
) -> None:
    reply = read_reply(make_job(tmp_path, "rtn(group_size=32)"), tmp_path, code)
    assert isinstance(reply, Failed)
    assert reply.failure.kind is kind
    assert words in reply.failure.message
    assert reply.failure.stage == "compress"


def test_what_was_written_counts_whatever_the_exit_code(tmp_path: Path) -> None:
    """A library may crash at exit, when the result stands in its file already."""
    job = make_job(tmp_path, "rtn(group_size=32)")
    done = CompressDone(predicted_bytes=1, stored_bytes=2, reused_steps=0)
    (tmp_path / "result.json").write_text(done.model_dump_json())
    assert read_reply(job, tmp_path, -signal.SIGSEGV) == done
    failure = Failure(kind=FailureKind.DIVERGED, message="m", stage="compress")
    (tmp_path / "result.json").write_text(Failed(failure=failure).model_dump_json())
    assert read_reply(job, tmp_path, 1) == Failed(failure=failure)


@pytest.mark.parametrize(
    ("error", "kind", "message", "config_error"),
    [
        (MemoryError(), FailureKind.OUT_OF_MEMORY, "MemoryError", False),
        (RuntimeError("can't allocate memory\nmore"), FailureKind.OUT_OF_MEMORY,
         "can't allocate memory", False),
        (DivergedError("loss is NaN"), FailureKind.DIVERGED, "loss is NaN", False),
        (ScreenedError("too bad"), FailureKind.SCREENED, "too bad", False),
        (MethodError("no"), FailureKind.METHOD_ERROR, "no", False),
        (ConfigError("disk full"), FailureKind.METHOD_ERROR, "disk full", True),
        (ValueError("a\nb"), FailureKind.METHOD_ERROR, "ValueError: a", False),
    ],
)  # fmt: skip
def test_an_exception_becomes_a_record(
    error: Exception, kind: FailureKind, message: str, config_error: bool
) -> None:
    found = failed(error, stage="verify")
    assert found.failure == Failure(kind=kind, message=message, stage="verify")
    assert found.config_error is config_error


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert within(10, lambda: not [t for t in threading.enumerate() if t.name.startswith("job")])
