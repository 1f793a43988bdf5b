"""The filter of system calls, as the kernel would read it."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from paredown.evaluate.sandbox.seccomp import allowed_calls, seccomp_program

ALLOWED, REFUSED, KILLED = 0x7FFF0000, 0x00050001, 0x80000000
X86_64, AARCH64, I386 = 0xC000003E, 0xC00000B7, 0x40000003


def filtered(program: bytes, machine: int, call: int) -> int:
    """What the kernel would decide: runs the three instructions that the filter uses."""
    steps = list(struct.iter_unpack("=HBBI", program))
    at, loaded = 0, 0
    while True:
        code, if_equal, otherwise, operand = steps[at]
        at += 1
        if code == 0x06:
            return int(operand)
        if code == 0x20:
            loaded = {0: call, 4: machine}[operand]
        else:
            assert code == 0x15
            at += if_equal if loaded == operand else otherwise


@pytest.mark.parametrize(("name", "machine"), [("x86_64", X86_64), ("aarch64", AARCH64)])
def test_the_filter_allows_its_list_alone(name: str, machine: int) -> None:
    program, allowed = seccomp_program(name), set(allowed_calls(name).values())
    for call in range(1000):
        assert filtered(program, machine, call) == (ALLOWED if call in allowed else REFUSED)
        assert filtered(program, machine, call | 0x40000000) == REFUSED  # the x32 convention
        assert filtered(program, I386, call) == KILLED


def test_the_calls_have_the_kernels_numbers() -> None:
    headers = {
        "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        "aarch64": Path("/usr/include/asm-generic/unistd.h"),
    }
    for machine, header in headers.items():
        if not header.exists():
            pytest.skip(f"{header} is not here")
        found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
        numbers = {name: int(number) for name, number in found}
        numbers["newfstatat"] = numbers.get("newfstatat", numbers.get("fstatat", -1))
        for name, number in allowed_calls(machine).items():
            assert numbers[name] == number, name
