"""What runs inside the sandbox: fences itself in, then plays the program's and the test's part.

The host starts this file's text with `python -c`; it stands alone (standard library only, few
imports: they are most of the time a check takes). It forks before anything is read, and each
half fences itself in and can lose rights only from then on:

* the *candidate* runs the model-written program and answers calls of its entry point;
* the *checker* holds the test and the verdict pipe, and calls the candidate over two pipes.

The two share no memory and only plain data passes between them, as JSON. So the program cannot
read the test, patch `assert`, or write a verdict: it passes only by answering right.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO, NoReturn

_MESSAGE_BYTES = 16 << 20
"""Longest answer that is read: a candidate must not fill the checker's memory."""
_TEXT = 500
"""Characters of an error message that are passed on."""


# --- Fences -------------------------------------------------------------------------------------


def limit_resources(settings: dict[str, Any]) -> None:
    """Limits of the operating system; the only fence of the level `limits`."""
    cpu = settings["cpu_s"]
    limits = {
        resource.RLIMIT_CPU: (cpu, cpu + 1),  # SIGXCPU, and where that is ignored, SIGKILL
        resource.RLIMIT_FSIZE: (0, 0),  # no file grows, not even one opened before
        resource.RLIMIT_NOFILE: (64, 64),
        resource.RLIMIT_CORE: (0, 0),  # a core file would hold the memory of what crashed
        resource.RLIMIT_NPROC: (0, 0),  # no new process; the kernel lets root pass
    }
    if sys.platform != "darwin":  # macOS counts the shared system libraries and refuses
        limits[resource.RLIMIT_AS] = (settings["memory_bytes"],) * 2
    for which, (soft, hard) in limits.items():
        most = resource.getrlimit(which)[1]  # the user's own limit may be lower
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(which, (soft, hard))


def fence(settings: dict[str, Any]) -> None:
    """Give up every right that a check does not need. Nothing here can be undone."""
    limit_resources(settings)
    if settings["seccomp"] is None:  # the level `limits`
        return
    libc = ctypes.CDLL(None, use_errno=True)
    _prctl(libc, 1, signal.SIGKILL)  # PR_SET_PDEATHSIG: do not outlive the host
    _prctl(libc, 38, 1)  # PR_SET_NO_NEW_PRIVS: no set-uid program; the fences below need it
    if settings["readable"] is not None:  # under bubblewrap there is nothing else to be seen
        fence_files(libc, settings["readable"])
    drop_capabilities(libc)
    filter_system_calls(libc, bytes.fromhex(settings["seccomp"]))  # last: it forbids the above


def fence_files(libc: ctypes.CDLL, readable: list[str]) -> None:
    """Landlock: files under `readable` can be read; all else can be neither opened nor made."""
    abi = libc.syscall(444, None, ctypes.c_size_t(0), 1)  # landlock_create_ruleset, its version
    if abi < 1:
        raise OSError(ctypes.get_errno(), "the kernel has no Landlock")
    rights = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)  # refer, truncate, ioctl on devices
    handled = struct.pack(
        "=QQQ",
        (1 << rights) - 1,  # every right over files that this kernel knows
        0b11 if abi >= 4 else 0,  # TCP bind and connect
        0b01 if abi >= 6 else 0,  # abstract sockets; not signals, or PDEATHSIG were stopped
    )
    rules = _checked(libc.syscall(444, handled, ctypes.c_size_t(len(handled)), 0))
    for path in readable:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = 0b1100 if os.path.isdir(path) else 0b0100  # noqa: PTH112  read files, folders
        rule = struct.pack("=Qi", allowed, beneath)
        _checked(libc.syscall(445, rules, 1, rule, 0))  # landlock_add_rule, PATH_BENEATH
        os.close(beneath)
    _checked(libc.syscall(446, rules, 0))  # landlock_restrict_self
    os.close(rules)


def drop_capabilities(libc: ctypes.CDLL) -> None:
    """Root keeps its number and loses its powers (another number could not read its Python)."""
    version_3 = struct.pack("=Ii", 0x20080522, 0)
    _checked(libc.capset(version_3, bytes(24)))


def filter_system_calls(libc: ctypes.CDLL, program: bytes) -> None:
    """seccomp: calls that are not on the list fail with EPERM."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    address = ctypes.create_string_buffer(header, len(header))
    _prctl(libc, 22, 2, ctypes.addressof(address))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _prctl(libc: ctypes.CDLL, option: int, *values: int) -> None:
    padded = (*values, 0, 0, 0, 0)[:4]
    _checked(libc.prctl(option, *(ctypes.c_ulong(value) for value in padded)))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


# --- Messages -----------------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """Plain data as JSON that keeps its Python types; subclasses become their plain base.

    Raises:
        TypeError: `value` holds something else.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encode(item) for item in value]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    raise TypeError(f"{type(value).__name__} is no plain data, which alone reaches the test")


def decode(value: Any) -> Any:
    """The inverse of `encode`; makes nothing but plain data, whatever it is given."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    [(kind, body)] = value.items()
    if kind == "dict":
        return {decode(key): decode(item) for key, item in body}
    if kind == "bytes":
        return bytes.fromhex(body)
    if kind == "complex":
        return complex(*body)
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](decode(body))


def send(descriptor: int, message: Any) -> None:
    """Write one message, a line of JSON."""
    left = memoryview(json.dumps(message).encode() + b"\n")
    while left:
        left = left[os.write(descriptor, left) :]


def describe(error: BaseException) -> list[str]:
    """Class and text of an error, short."""
    try:
        text = str(error)[:_TEXT]
    except BaseException:  # noqa: BLE001  the program's own class may do anything
        text = ""
    return [type(error).__name__, text]


# --- The candidate ------------------------------------------------------------------------------


def candidate(requests: BinaryIO, answers: int) -> None:
    """Run the program, then its entry point on every request. All of this may be hostile."""
    task = json.loads(requests.readline())
    namespace: dict[str, Any] = {"__name__": "program"}
    function: Any = None
    try:
        exec(compile(task["program"], "program.py", "exec"), namespace)
        function = namespace[task["entry_point"]]
        reply: dict[str, Any] = {"value": None}
    except BaseException as error:  # noqa: BLE001  SystemExit too: ending is not passing
        reply = {"error": describe(error)}
    send(answers, reply)
    for line in requests:
        try:
            args, kwargs = decode(json.loads(line))
            reply = {"value": encode(function(*args, **kwargs))}
        except BaseException as error:  # noqa: BLE001
            reply = {"error": describe(error)}
        send(answers, reply)


# --- The checker --------------------------------------------------------------------------------


class Answered(Exception):
    """The candidate answered with an error."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}" if text else name)
        self.name = name


class Ended(Exception):
    """The candidate closed its pipe: it is dead."""


def checker(task: dict[str, str], requests: int, answers: BinaryIO, child: int) -> list[str]:
    """Run the test against the candidate; status and reason."""
    try:
        run_test(task, requests, answers)
    except AssertionError as error:
        return ["failed", "wrong answer: " + (failed_line(error, task["test"]) or str(error))]
    except MemoryError:
        return ["memory", "the answer does not fit in memory"]
    except Answered as error:
        return ["memory" if error.name == "MemoryError" else "failed", str(error)[:_TEXT]]
    except (Ended, BrokenPipeError):
        return ending(child)
    except Exception as error:  # noqa: BLE001  a test may trip over an answer of a wrong type
        return ["failed", "the test raised " + ": ".join(describe(error))]
    return ["passed", ""]


def run_test(task: dict[str, str], requests: int, answers: BinaryIO) -> None:
    """Define the test's `check` and call it with a stand-in for the entry point."""

    def receive() -> Any:
        line = answers.readline(_MESSAGE_BYTES)
        if not line.endswith(b"\n"):
            raise Answered("Answer", "too long") if line else Ended
        answer = json.loads(line)
        if "error" in answer:
            raise Answered(*map(str, answer["error"]))
        return decode(answer["value"])

    def call(*args: Any, **kwargs: Any) -> Any:
        send(requests, encode((args, kwargs)))
        return receive()

    send(requests, {"program": task["program"], "entry_point": task["entry_point"]})
    receive()
    namespace: dict[str, Any] = {"__name__": "test"}
    exec(compile(task["test"], "test.py", "exec"), namespace)
    namespace[task["entry_point"]] = call  # one test of HumanEval calls it by name
    namespace["check"](call)


def failed_line(error: BaseException, test: str) -> str:
    """The test's line that failed."""
    number, frame = 0, error.__traceback__
    while frame:
        if frame.tb_frame.f_code.co_filename == "test.py":
            number = frame.tb_lineno
        frame = frame.tb_next
    return test.splitlines()[number - 1].strip()[:_TEXT] if number else ""


def ending(child: int) -> list[str]:
    """How the candidate ended."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGXCPU:
        return ["timeout", "the limit on processor time is reached"]
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return ["killed", f"the program ended {how} before it answered"]


# --- Both ---------------------------------------------------------------------------------------


def main(settings: dict[str, Any]) -> NoReturn:
    """Fork, fence both halves in, and let the checker write `ready` and the verdict."""
    verdict = settings["verdict"]
    sys.set_int_max_str_digits(0)  # or a right answer of 5000 digits would be refused
    requests, to_candidate = os.pipe()
    answers, to_checker = os.pipe()
    child = os.fork()  # before the task is read: the candidate's memory never holds the test
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the task is the checker's
        _keep(0, 1, 2, requests, to_checker)
        fence(settings)
        send(to_checker, "ready")
        candidate(os.fdopen(requests, "rb"), to_checker)
        os._exit(0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the test prints is not the program's
    _keep(0, 1, 2, verdict, to_candidate, answers)
    fence(settings)
    pipe = os.fdopen(answers, "rb")
    if not pipe.readline():
        sys.exit("the candidate did not start")
    send(verdict, "ready")
    send(verdict, checker(json.load(sys.stdin), to_candidate, pipe, child))
    os._exit(0)


def _keep(*descriptors: int) -> None:
    """Close every other descriptor, whoever opened it."""
    keep = sorted(descriptors)
    for low, high in zip(keep, [*keep[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
