"""The system calls that sandboxed code may make, as a seccomp program.

A list of what is allowed, not of what is forbidden: calls that the kernel gains later are
refused without anyone thinking of them. CPython needs these to compute, to import the standard
library and to write to a pipe. Missing on purpose, and so impossible: sockets, new processes and
threads, `exec`, signals to anyone, tracing, reading other processes, changing files or their
names, mounts, namespaces, keys, BPF, io_uring, memory outside the limits (memfd, System V), and
`prlimit`, which could change the limits of the user's other processes.
"""

from __future__ import annotations

import platform
import struct
import sys

_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # name: its number on x86-64 and on aarch64 (linux/asm-generic), None where it is not there
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "lseek": (8, 62),
    "close": (3, 57),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "open": (2, None),
    "openat": (257, 56),
    "stat": (4, None),
    "lstat": (6, None),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getitimer": (36, 102),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrusage": (98, 165),
    "select": (23, None),
    "pselect6": (270, 72),
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "restart_syscall": (219, 128),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "uname": (63, 160),
    "wait4": (61, 260),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Per machine: its AUDIT_ARCH number and its column above."""

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_NUMBER_AT, _MACHINE_AT = 0, 4  # offsets in struct seccomp_data
_KILL, _EPERM, _ALLOW = 0x80000000, 0x00050001, 0x7FFF0000


def allowed_calls(machine: str) -> dict[str, int]:
    """Name and number of every allowed call on `machine`."""
    column = _MACHINES[machine][1]
    return {n: call for n, calls in _ALLOWED.items() if (call := calls[column]) is not None}


def seccomp_program(machine: str) -> bytes:
    """The filter as an array of `struct sock_filter`.

    Calls by another calling convention (32-bit, whose numbers mean other calls) kill; the x32
    convention has numbers of its own, which are not on the list.
    """
    calls = list(allowed_calls(machine).values())
    steps = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 1, 0, _MACHINES[machine][0]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        *((_EQUAL, len(calls) - i, 0, call) for i, call in enumerate(calls)),  # to the last line
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def seccomp_machine() -> str | None:
    """This machine's name if the filter is written for it."""
    known = sys.platform == "linux" and platform.machine() in _MACHINES
    return platform.machine() if known else None
