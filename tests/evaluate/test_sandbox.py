"""Hostile programs do no harm and do not pass, on every level that this machine offers."""

from __future__ import annotations

import ast
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from paredown.errors import ConfigError
from paredown.evaluate.sandbox import detect as detecting
from paredown.evaluate.sandbox import launcher, levels, run, watch
from paredown.evaluate.sandbox.detect import detect, open_sandbox
from paredown.evaluate.sandbox.levels import Level, obstacle
from paredown.evaluate.sandbox.run import (
    Check,
    Sandbox,
    SandboxError,
    SandboxLimits,
    SandboxOutcome,
)

DONE = "def check(candidate):\n    assert candidate() == 'harm done'\n"
QUICK = SandboxLimits(cpu_s=1, wall_s=60.0, memory_bytes=256 << 20, output_bytes=1 << 20)


def attempt(
    level: Level, body: str, limits: SandboxLimits = QUICK, test: str = DONE
) -> SandboxOutcome:
    """Run `body` as the function `attack`; it says so if its harm is done."""
    program = f"def attack():\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
    return Sandbox(level, limits).check(Check(program=program, entry_point="attack", test=test))


def assert_none_works(level: Level, steps: Iterable[str], names: str = "pass") -> None:
    """Each step is refused, by an error or by a -1 from C that is made into 1 / 0."""
    outcome = attempt(
        level,
        f"""
        import ctypes, mmap, multiprocessing, os, resource, signal, socket, subprocess, sys
        import threading
        {names}
        C = ctypes.CDLL(None)
        for step in {list(steps)!r}:
            try:
                exec(step)
            except (OSError, RuntimeError, ValueError, ZeroDivisionError):
                continue
            print(step)
            return 'harm done'
        """,
    )
    assert (outcome.status, outcome.stdout) == ("failed", ""), outcome
    assert outcome.reason.startswith("wrong answer")


def require(level: Level) -> Level:
    """Skip where `level` does not work; where it starts and leaks, fail."""
    reason = obstacle(level) or (None if level is Level.LIMITS else detecting._leak(level))
    if reason is not None:
        assert "it leaks" not in reason
        pytest.skip(f"{level}: {reason}")
    return level


@pytest.fixture(params=[Level.BUBBLEWRAP, Level.LANDLOCK], scope="module")
def fenced(request: pytest.FixtureRequest) -> Level:
    """A level that keeps code in."""
    return require(request.param)


@pytest.fixture(params=list(Level), scope="module")
def level(request: pytest.FixtureRequest) -> Level:
    """Any level."""
    return require(request.param)


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process of a test outlives it."""
    mark = f"# {uuid4()}"
    monkeypatch.setattr(run, "_LAUNCHER", f"{run._LAUNCHER}\n{mark}")
    yield
    ended = soon(lambda: not running(mark))
    for process in running(mark):
        os.kill(process, signal.SIGKILL)
    assert ended


def running(mark: str) -> list[int]:
    """Processes with `mark` in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if mark.encode() in command:
            found.append(int(folder.name))
    return found


def soon(condition: Callable[[], bool]) -> bool:
    """Whether `condition` comes to hold within 20 s."""
    end = time.monotonic() + 20
    while not (held := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return held


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the user's."""
    path = tmp_path / "secret.txt"
    path.write_text("the secret")
    return path


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of the user's."""
    process = subprocess.Popen(["sleep", "100"])
    yield process
    process.kill()
    process.wait()


# --- What works ---------------------------------------------------------------------------------


def test_a_right_answer_passes_and_a_wrong_one_fails(level: Level) -> None:
    program = "def add(a, b=2):\n    print('adding')\n    return a + b"
    task = Check(program=program, entry_point="add", test="def check(c):\n    assert c(1) == 3")
    right = Sandbox(level).check(task)
    assert right.passed, right
    assert right.stdout == "adding\n"
    assert (right.reason, right.stderr) == ("", "")
    wrong = Sandbox(level).check(replace(task, test="def check(c):\n    assert c(1, b=1) == 3"))
    assert (wrong.status, wrong.reason) == ("failed", "wrong answer: assert c(1, b=1) == 3")
    talking = Sandbox(level).check(replace(task, test="def check(c):\n    print('3 is expected')"))
    assert (talking.status, talking.stdout) == ("passed", "")
    assert wrong.seconds > 0


VALUES = [
    None,
    True,
    10**30,
    -0.5,
    float("inf"),
    1 + 2j,
    "line\nand \udc80 and \u2028",
    b"\x00\xff",
    [1, (2, {3: [4.0]})],
    {"a": {1, 2}, (1, 2): frozenset({3})},
    {"dict": "a", "tuple": [1]},
    (),
]


def test_plain_data_keeps_its_types() -> None:
    for value in VALUES:
        assert repr(launcher.decode(launcher.encode(value))) == repr(value)
    assert str(launcher.decode(launcher.encode([float("nan")]))) == "[nan]"


def test_data_arrives_as_it_was_sent(fenced: Level) -> None:
    values = f"VALUES = {VALUES!r}".replace("inf", "1e999")
    test = (
        f"{values}\ndef check(c):\n"
        "    assert repr(c(*VALUES)) == repr(tuple(VALUES))\n"
        "    assert repr(c(VALUES, [])) == repr((VALUES, []))\n"
    )
    task = Check(program="def same(*a):\n    return a", entry_point="same", test=test)
    assert Sandbox(fenced).check(task).passed


def test_other_data_is_refused_by_name(fenced: Level) -> None:
    outcome = attempt(fenced, "return object()")
    assert (outcome.status, outcome.reason) == (
        "failed",
        "TypeError: object is no plain data, which alone reaches the test",
    )


def test_the_standard_library_can_be_imported(fenced: Level) -> None:
    outcome = attempt(
        fenced,
        """
        import bisect, collections, copy, datetime, decimal, fractions, functools, hashlib, heapq
        import itertools, json, math, operator, random, re, statistics, string, typing, zlib
        assert hashlib.md5(b"").hexdigest().startswith("d41d")
        assert random.random() != random.random()
        assert datetime.datetime.now().year > 2000
        return 'harm done'
        """,
    )
    assert outcome.passed, outcome


def test_a_syntax_error_and_a_missing_function_fail(fenced: Level) -> None:
    for program, reason in (("def f(:", "SyntaxError"), ("g = 1", "KeyError: 'f'")):
        outcome = Sandbox(fenced).check(Check(program=program, entry_point="f", test=DONE))
        assert outcome.status == "failed"
        assert reason in outcome.reason


def test_a_set_has_the_same_order_every_time(fenced: Level) -> None:
    body = "print(list({str(i) for i in range(100)}))"
    assert attempt(fenced, body).stdout == attempt(fenced, body).stdout


def test_many_at_once_keep_their_order(fenced: Level) -> None:
    tasks = [
        Check(
            program=f"def f():\n    return {i}",
            entry_point="f",
            test=f"def check(c): assert c() == {i % 3}",
        )
        for i in range(6)
    ]
    outcomes = Sandbox(fenced).check_all(tasks, jobs=3)
    assert [o.passed for o in outcomes] == [True] * 3 + [False] * 3


def test_a_number_of_many_digits_is_an_answer(fenced: Level) -> None:
    test = "def check(c):\n    assert c() == 10**5000"
    assert attempt(fenced, "return 10**5000", test=test).passed


# --- Files --------------------------------------------------------------------------------------


def test_the_system_cannot_be_read(fenced: Level) -> None:
    files = ("/etc/passwd", "/etc/shadow", "/proc/self/environ", "/proc/1/environ", "/proc/kcore")
    folders = ("/tmp", "/proc", "/sys", "/dev/shm", "/home")
    steps = [f"open({file!r})" for file in files] + [f"os.listdir({f!r})" for f in folders]
    assert_none_works(fenced, steps)


def test_the_users_files_cannot_be_read(fenced: Level, secret: Path) -> None:
    ways = ("", "/usr/lib/../..", "/proc/self/root", "/proc/self/cwd")
    steps = [f"print(open({way + str(secret)!r}).read())" for way in ways]
    assert_none_works(fenced, [*steps, f"os.listdir({str(secret.parent)!r})"])


def test_a_link_from_a_readable_folder_leads_nowhere(
    fenced: Level, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_folder = tmp_path / "readable"
    open_folder.mkdir()
    (open_folder / "link").symlink_to(secret)
    (open_folder / "plain").write_text("to be read")
    paths = [*levels.readable_paths(), str(open_folder)]
    for module in (levels, run):
        monkeypatch.setattr(module, "readable_paths", lambda: paths)
    assert attempt(fenced, f"open('{open_folder}/plain'); return 'harm done'").passed
    outcome = attempt(fenced, f"open('{open_folder}/link'); return 'harm done'")
    assert outcome.status == "failed"


WRITES = [
    "open(FOLDER + '/new', 'w')",
    "open('/usr/lib/../..' + FOLDER + '/new', 'w')",
    "open(SECRET, 'r+').write('changed')",
    "os.truncate(SECRET, 0)",
    "os.unlink(SECRET)",
    "os.rename(SECRET, FOLDER + '/other')",
    "os.symlink(SECRET, FOLDER + '/link')",
    "os.link(SECRET, FOLDER + '/link')",
    "os.mkdir(FOLDER + '/new')",
    "os.rmdir(FOLDER + '/empty')",
    "os.mkfifo(FOLDER + '/new')",
    "os.chmod(SECRET, 0)",
    "os.chown(SECRET, 1, 1)",
    "os.utime(SECRET, (0, 0))",
    "os.setxattr(SECRET, 'user.mark', b'x')",
    "os.chroot(FOLDER)",
    "C.mount(b'/', FOLDER.encode(), b'', 4096, b'') and 1 / 0",
]


def test_readable_is_not_writable(
    fenced: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [*levels.readable_paths(), str(tmp_path)]
    for module in (levels, run):
        monkeypatch.setattr(module, "readable_paths", lambda: paths)
    (tmp_path / "old").write_text("old")
    steps = ["open(FOLDER + '/new', 'w')", "open(FOLDER + '/old', 'r+')", *WRITES]
    assert_none_works(fenced, steps, f"FOLDER = {str(tmp_path)!r}; SECRET = FOLDER + '/old'")
    assert list(tmp_path.iterdir()) == [tmp_path / "old"]
    assert (tmp_path / "old").read_text() == "old"


def test_no_file_changes(fenced: Level, secret: Path) -> None:
    (secret.parent / "empty").mkdir()
    before = secret.stat()
    names = f"FOLDER = {str(secret.parent)!r}; SECRET = {str(secret)!r}"
    assert_none_works(fenced, WRITES, names)
    assert sorted(secret.parent.iterdir()) == [secret.parent / "empty", secret]
    after = secret.stat()
    assert (after.st_mtime, after.st_mode) == (before.st_mtime, before.st_mode)
    assert (after.st_uid, after.st_nlink) == (before.st_uid, before.st_nlink)
    assert secret.read_text() == "the secret"


def test_no_disk_can_be_filled(level: Level, tmp_path: Path) -> None:
    """Even without a sandbox: files are made, but none takes a byte."""
    outcome = attempt(
        level,
        f"""
        import os
        for folder in ({str(tmp_path)!r}, "/tmp", "/var/tmp", "/dev/shm", ".", "/dev", "/usr/lib"):
            try:
                with open(f"{{folder}}/{tmp_path.name}-filler", "wb", buffering=0) as file:
                    if file.write(b"x"):
                        return 'harm done'
            except OSError:
                continue
        """,
    )
    assert outcome.status == "failed"
    for folder in (tmp_path, Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/dev")):
        filler = folder / f"{tmp_path.name}-filler"
        assert not filler.exists() or (level is Level.LIMITS and filler.stat().st_size == 0)
        filler.unlink(missing_ok=True)
    Path(f"/usr/lib/{tmp_path.name}-filler").unlink(missing_ok=True)


# --- Network ------------------------------------------------------------------------------------


def test_nothing_is_reached_over_the_network(fenced: Level, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
        for server in (tcp, unix):
            server.listen()
            server.settimeout(0)
            address = server.getsockname()
            connect = f"socket.socket(socket.{server.family.name}).connect({address!r})"
            outcome = attempt(fenced, f"import socket; {connect}; return 'harm done'")
            assert outcome.status == "failed"
            with pytest.raises(BlockingIOError):
                server.accept()


def test_there_is_no_socket(fenced: Level) -> None:
    steps = [
        "socket.create_server(('127.0.0.1', 0))",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
        "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
        "socket.socketpair()",
        "socket.getaddrinfo('localhost', 80)",
        "socket.getaddrinfo('example.org', 80)",
        "C.syscall(425, 8, bytes(120)) >= 0 or 1 / 0",  # io_uring_setup
    ]
    assert_none_works(fenced, steps)


# --- Processes ----------------------------------------------------------------------------------


def test_no_process_starts_and_no_right_is_gained(fenced: Level) -> None:
    steps = [
        "while True: os.fork()",
        "threading.Thread(target=print).start()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execv(sys.executable, ['python', '-c', '1'])",
        "subprocess.run(['true'])",
        "os.system('true') and 1 / 0",
        "multiprocessing.get_context('fork').Process(target=print).start()",
        "os.setsid()",
        "os.nice(-5)",
        "os.memfd_create('x')",
        "os.sched_setaffinity(0, {0})",
        "resource.setrlimit(resource.RLIMIT_CPU, (1, 1))",
        "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (1, 1))",
        "C.unshare(0x10000000) and 1 / 0",
        "C.prctl(4, 1, 0, 0, 0) and 1 / 0",
    ]
    assert_none_works(fenced, steps)


def test_a_daemon_does_not_stay(fenced: Level, tmp_path: Path) -> None:
    """The double fork fails; `nothing_left` sees that none is left."""
    outcome = attempt(
        fenced,
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(100)
        return 'harm done'
        """,
    )
    assert outcome.status == "failed"


ON_OTHERS = [
    "os.kill(PID, 9)",
    "os.killpg(os.getpgid(PID), 0)",
    "os.kill(-1, 0)",
    "signal.pidfd_send_signal(os.pidfd_open(PID), 0)",
    "open(f'/proc/{PID}/environ')",
    "open(f'/proc/{PID}/cmdline')",
    "open(f'/proc/{PID}/mem', 'r+b')",
    "os.readlink(f'/proc/{PID}/fd/0')",
    "open(f'/proc/{PID}/fd/0')",
    "C.ptrace(16, PID, 0, 0) and 1 / 0",  # PTRACE_ATTACH
    "C.process_vm_readv(PID, None, 0, None, 0, 0) and 1 / 0",  # process_vm_readv
    "os.sched_setaffinity(PID, {0})",
    "os.setpriority(os.PRIO_PROCESS, PID, 19)",
]


def test_other_processes_are_out_of_reach(fenced: Level, victim: subprocess.Popen[bytes]) -> None:
    assert_none_works(fenced, ON_OTHERS, f"PID = {victim.pid}")
    assert victim.poll() is None


def test_the_checker_is_out_of_reach(fenced: Level) -> None:
    assert_none_works(fenced, ON_OTHERS, "PID = os.getppid()")


def test_no_variable_of_the_users_arrives(level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "the secret")
    outcome = attempt(level, "import os; print(dict(os.environ)); return 'harm done'")
    assert outcome.passed
    allowed = {"PYTHONHASHSEED", "PYTHONUTF8", "LC_CTYPE", "PWD"}
    assert set(ast.literal_eval(outcome.stdout)) <= allowed


def test_no_descriptor_of_the_users_arrives(level: Level, secret: Path) -> None:
    with secret.open() as file:
        high = os.dup2(file.fileno(), 50)
        outcome = attempt(
            level,
            """
            import os
            for fd in range(1024):
                try:
                    kind = os.fstat(fd).st_mode & 0o170000
                except OSError:
                    continue
                print(fd, oct(kind))
                if kind == 0o100000:
                    return 'harm done'
            """,
        )
        os.close(high)
    assert outcome.status == "failed"
    # No input, then output, error, and the two pipes to the checker.
    kinds = [line.split()[1] for line in outcome.stdout.splitlines()]
    assert kinds == ["0o20000", "0o10000", "0o10000", "0o10000", "0o10000"]


def test_the_candidate_has_no_input(level: Level) -> None:
    assert attempt(level, "return input()").reason.startswith("EOFError")


# --- Limits ---------------------------------------------------------------------------------------


def test_an_endless_loop_ends(level: Level) -> None:
    outcome = attempt(level, "while True: pass")
    assert (outcome.status, outcome.reason) == (
        "timeout",
        "the limit on processor time is reached",
    )


def test_a_loop_that_ignores_every_signal_ends(fenced: Level) -> None:
    outcome = attempt(
        fenced,
        """
        import signal
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        while True: pass
        """,
    )
    assert outcome.status in {"killed", "timeout"}
    assert outcome.reason != "no end after 60 s"


def test_a_sleeper_is_waited_for_no_longer_than_allowed(level: Level) -> None:
    outcome = attempt(level, "import time; time.sleep(100)", replace(QUICK, wall_s=1.0))
    assert (outcome.status, outcome.reason) == ("timeout", "no end after 1 s")
    assert outcome.seconds < 30


def test_a_loop_at_import_ends(fenced: Level) -> None:
    task = Check(program="while True: pass", entry_point="f", test=DONE)
    assert Sandbox(fenced, QUICK).check(task).status == "timeout"


@pytest.mark.parametrize(
    "step",
    [
        "x = bytearray(1 << 30)",
        "x = [0]\nwhile True: x += x",
        "import mmap; x = mmap.mmap(-1, 1 << 30)",
        "x = 'a' * (1 << 30)",
    ],
)
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not limit address space")
def test_memory_is_limited(level: Level, step: str) -> None:
    outcome = attempt(level, f"{step}\nreturn 'harm done'")
    assert outcome.status == "memory" or "Cannot allocate memory" in outcome.reason
    assert not outcome.passed


def test_endless_output_ends(level: Level) -> None:
    outcome = attempt(level, "while True: print('x' * 1000)")
    assert (outcome.status, outcome.reason) == ("killed", "printed more than 1048576 bytes")
    assert len(outcome.stdout) <= 4000


def test_an_answer_too_big_for_the_test_fails(fenced: Level) -> None:
    assert attempt(fenced, "return 'x' * (17 << 20)").reason == "Answer: too long"


def test_an_answer_that_hangs_the_test_does_not_pass(fenced: Level) -> None:
    test = "def check(c):\n    while c() == 1: pass\n    while True: pass"
    outcome = attempt(fenced, "return 2", test=test)
    assert outcome.status in {"killed", "timeout"}


# --- Forgery ------------------------------------------------------------------------------------

FORGERIES = {
    "os._exit": "import os; os._exit(0)",
    "sys.exit": "import sys; sys.exit(0)",
    "exit at exit": "import atexit, sys; atexit.register(sys.exit, 0); sys.exit(0)",
    "abort": "import os; os.abort()",
    "crash": "import ctypes; ctypes.string_at(0)",
    "always equal": "return type('X', (str,), {'__eq__': lambda *a: True})('wrong')",
    "a lie about its class": "return type('X', (), {'__class__': str, '__eq__': lambda *a: 1})()",
    "no assertions": "import builtins; builtins.AssertionError = type('X', (Exception,), {})",
    "no errors": "import builtins; builtins.Exception = builtins.BaseException = str",
    "another check": "import __main__; __main__.check = lambda c: None",
    "another checker": "import __main__; __main__.checker = lambda *a: ['passed', '']",
    "frames": """
        import sys
        frame = sys._getframe()
        while frame:
            for names in (frame.f_globals, frame.f_locals):
                for name in ('check', 'test', 'run_test', 'call'):
                    names[name] = lambda *a, **k: 'harm done'
            frame = frame.f_back
        """,
    "the verdict to everyone": """
        import os
        for fd in range(64):
            try:
                os.write(fd, b'"ready"\\n["passed", ""]\\n' * 3)
            except OSError:
                pass
        """,
    "the test in memory": """
        import gc
        for thing in gc.get_objects():
            if isinstance(thing, dict) and 'test' in thing and 'program' in thing:
                return thing['test'].split("'")[1]
        """,
    "the test in the input": """
        import os
        for fd in range(64):
            try:
                text = os.pread(fd, 10000, 0).decode()
                return text.rsplit("'", 2)[1]  # the test stands last
            except (OSError, IndexError):
                pass
        """,
    "a signal while checking": "import os, signal; os.kill(os.getppid(), signal.SIGSTOP)",
    "the pipe closed": "import os; os.closerange(3, 64)",
    "nonsense": "import os; [os.write(fd, b'{}\\n') for fd in (4, 5, 6, 7)]",
    "depth": "x = []\nfor _ in range(100000): x = [x]\nreturn x",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_verdict_cannot_be_forged(fenced: Level, name: str) -> None:
    outcome = attempt(fenced, FORGERIES[name])
    assert outcome.status in {"failed", "killed"}, outcome


@pytest.mark.parametrize("name", ["os._exit", "sys.exit", "always equal", "no assertions"])
def test_simple_forgeries_fail_without_a_sandbox(name: str) -> None:
    assert not attempt(require(Level.LIMITS), FORGERIES[name]).passed


def write_answers(lines: str) -> str:
    """Code that writes `lines` to the checker instead of an answer."""
    return f"""
        import os
        for fd in reversed(range(3, 64)):
            try:
                os.write(fd, {lines!r}.encode())
            except OSError:
                pass
        os._exit(0)
        """


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "{}",
        '{"value": {"eval": "1"}}',
        '{"value": {"set": [[]]}}',
        '{"value": {"dict": 1}}',
        '{"value": {"complex": [1, 2, 3]}}',
        '{"error": []}',
        '{"error": "passed"}',
        "[" * 100_000,
        "not json",
    ],
)
def test_an_unreadable_answer_fails(fenced: Level, line: str) -> None:
    assert attempt(fenced, write_answers(line + "\n")).status == "failed"


# --- Each fence is needed -----------------------------------------------------------------------

FILTER = '    filter_system_calls(libc, bytes.fromhex(settings["seccomp"]))'
PUT_ASIDE = {
    "seccomp": (FILTER, "import socket; socket.socket(); return 'harm done'"),
    "Landlock": ("        fence_files(libc, settings", "open('/etc/passwd'); return 'harm done'"),
    "open files": (
        "        resource.RLIMIT_NOFILE",
        "import os; [os.open('/usr/lib', 0) for _ in range(100)]; return 'harm done'",
    ),
    "memory": ("        limits[resource.RLIMIT_AS]", "bytearray(512 << 20); return 'harm done'"),
    "processor": (
        "        resource.RLIMIT_CPU",
        "import time\nwhile time.process_time() < 1.3: pass\nreturn 'harm done'",
    ),
    "no input": ("        os.dup2(os.open(os.devnull", FORGERIES["the test in the input"]),
    "own descriptors": (
        "        _keep(0, 1, 2, requests, to_checker)",
        "import os\ntry: os.fstat(5)\nexcept OSError: return\nreturn 'harm done'",
    ),
}


def put_aside(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the launcher's one line that starts so do nothing."""
    lines = run._LAUNCHER.splitlines()
    [at] = [i for i, line in enumerate(lines) if line.startswith(start)]
    in_a_table = start.lstrip().startswith("resource.")
    lines[at] = "" if in_a_table else start[: -len(start.lstrip())] + "pass"
    monkeypatch.setattr(run, "_LAUNCHER", "\n".join(lines))


@pytest.mark.parametrize("fence", PUT_ASIDE)
def test_what_each_fence_stops(fence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack fails, and succeeds with that one fence put aside."""
    level = require(Level.LANDLOCK)
    start, attack = PUT_ASIDE[fence]
    assert not attempt(level, attack).passed
    put_aside(start, monkeypatch)
    outcome = attempt(level, attack)
    assert outcome.passed, outcome


def test_what_the_limit_on_files_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    level = require(Level.LIMITS)
    attack = f"open('{tmp_path}/new', 'wb', buffering=0).write(b'x'); return 'harm done'"
    assert not attempt(level, attack).passed
    put_aside("        resource.RLIMIT_FSIZE", monkeypatch)
    assert attempt(level, attack).passed


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_what_dropping_capabilities_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root without powers cannot read what nobody may read."""
    level = require(Level.LANDLOCK)
    (tmp_path / "closed").write_text("closed")
    (tmp_path / "closed").chmod(0)
    paths = [*levels.readable_paths(), str(tmp_path)]
    monkeypatch.setattr(run, "readable_paths", lambda: paths)
    attack = f"open('{tmp_path}/closed'); return 'harm done'"
    assert attempt(level, attack).reason.startswith("PermissionError")
    put_aside("    drop_capabilities(libc)", monkeypatch)
    assert attempt(level, attack).passed


HOST = """
import sys
from paredown.evaluate.sandbox import run
run._LAUNCHER += "\\n" + sys.argv[2]
task = run.Check(program="import time; time.sleep(60)", entry_point="f", test="")
run.Sandbox(run.Level(sys.argv[1]), run.SandboxLimits(wall_s=60)).check(task)
"""


def test_bubblewrap_holds_without_seccomp(
    victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two fences, each of which would do."""
    level = require(Level.BUBBLEWRAP)
    put_aside(FILTER, monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as server:
        steps = [
            f"socket.create_connection({server.getsockname()!r}, timeout=5)",
            f"os.kill({victim.pid}, 9)",
            "open('/new', 'w')",
            "open('/usr/lib/new', 'w')",
        ]
        assert_none_works(level, steps)
    assert victim.poll() is None


def test_a_lower_limit_of_the_users_is_kept(level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    hard = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))\n"
    start = 'if __name__ == "__main__":\n'
    text = run._LAUNCHER.replace(start, f"{hard}{start}")
    monkeypatch.setattr(run, "_LAUNCHER", text)
    body = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)); return 'harm done'"
    if level is Level.LIMITS:
        assert attempt(level, body).stdout == "(32, 32)\n"
    else:
        assert attempt(level, "return 'harm done'").passed


def test_the_sandbox_dies_with_its_host(fenced: Level) -> None:
    mark = f"# {uuid4()}"

    def fenced_in() -> bool:
        states = [Path(f"/proc/{process}/status").read_text() for process in running(mark)]
        return sum("Seccomp:\t2" in state for state in states) == 2  # candidate and checker

    host = subprocess.Popen([sys.executable, "-c", HOST, fenced, mark])
    assert soon(fenced_in)
    host.kill()
    host.wait()
    assert soon(lambda: not running(mark))


# --- Choosing a level ---------------------------------------------------------------------------


@pytest.fixture
def afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """`detect` without what it remembers."""
    detect.cache_clear()
    yield monkeypatch
    detect.cache_clear()


def test_the_strongest_level_that_works_is_taken(fenced: Level) -> None:
    strongest = Level.BUBBLEWRAP if obstacle(Level.BUBBLEWRAP) is None else Level.LANDLOCK
    chosen, reasons = detect()
    assert chosen is not None
    assert chosen is strongest or reasons  # there, and does not work
    assert open_sandbox(QUICK) == Sandbox(chosen, QUICK)
    assert open_sandbox(QUICK).describe() == (
        f"{chosen.meaning}; 1 s of processor, 60 s of time and 256 MiB each"
    )


def test_without_bubblewrap_landlock_is_taken(afresh: pytest.MonkeyPatch) -> None:
    require(Level.LANDLOCK)
    afresh.setenv("PATH", "")
    assert detect() == (Level.LANDLOCK, "bubblewrap: bwrap is not installed")


def test_without_either_the_user_decides(afresh: pytest.MonkeyPatch) -> None:
    require(Level.LIMITS)
    afresh.setenv("PATH", "")
    put_aside("    rules = _checked(libc.syscall(444", afresh)
    with pytest.raises(ConfigError, match=r"none works here .*landlock.*--allow-unsandboxed-code"):
        open_sandbox()
    assert open_sandbox(allow_unsandboxed=True).describe().startswith("NO SANDBOX")


def test_other_systems_are_refused_by_name(afresh: pytest.MonkeyPatch) -> None:
    afresh.setattr(levels, "seccomp_machine", lambda: None)
    with pytest.raises(ConfigError, match="it needs Linux on x86-64 or aarch64"):
        open_sandbox()
    afresh.setattr(sys, "platform", "win32")
    detect.cache_clear()
    with pytest.raises(ConfigError, match="Windows"):
        open_sandbox(allow_unsandboxed=True)


def test_a_level_that_leaks_is_not_taken(afresh: pytest.MonkeyPatch) -> None:
    require(Level.LANDLOCK)
    afresh.setenv("PATH", "")
    put_aside(FILTER, afresh)
    level, reason = detect()
    assert level is None
    assert re.search(r"it leaks: .*use the network", reason)


def test_a_sandbox_that_does_not_start_is_an_error_not_a_verdict(
    level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_LAUNCHER", "raise SystemExit('no such thing')")
    with pytest.raises(SandboxError, match="did not start: no such thing"):
        attempt(level, "return 'harm done'")
    monkeypatch.setattr(run, "_LAUNCHER", "import time; time.sleep(60)")
    monkeypatch.setattr(watch, "START_S", 0.5)
    with pytest.raises(SandboxError, match="did not start: not in time"):
        attempt(level, "return 'harm done'")


def test_seccomp_without_no_new_privs_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    level = require(Level.LANDLOCK)
    if "NoNewPrivs:\t1" in Path("/proc/self/status").read_text():
        pytest.skip("this process already runs without new privileges")
    put_aside("    _prctl(libc, 38, 1)", monkeypatch)
    with pytest.raises(SandboxError, match="did not start"):
        attempt(level, "return 'harm done'")


@pytest.mark.parametrize("name", ["cpu_s", "wall_s", "memory_bytes", "output_bytes"])
def test_limits_must_be_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be more than 0, got 0"):
        SandboxLimits(**{name: 0})


def test_bubblewrap_elsewhere_is_found_by_its_path(
    afresh: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As conda has it; the sandbox is started with a PATH of /bin:/usr/bin."""
    require(Level.LANDLOCK)
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho not the real one >&2; exit 3\n")
    program.chmod(0o755)
    afresh.setenv("PATH", str(tmp_path))
    assert levels.bubblewrap_prefix()[0] == str(program)
    level, reasons = detect()  # it does not work: the next level is taken, and told why
    assert level is Level.LANDLOCK
    assert "not the real one" in reasons
    program.write_text("no program")
    detect.cache_clear()
    assert detect()[0] is Level.LANDLOCK
