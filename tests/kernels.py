"""Kernels that this machine may not have: a stand-in for the process that is asked, and
bitsandbytes as it is on a processor with AVX512-BF16."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paredown.runtimes import kernels

AVX512 = '("" if not width % 64 and not rows % 32 else "RuntimeError: invalid for input of size")'
"""What bitsandbytes' NF4 kernel answers on a processor with AVX512-BF16."""
_PROCESS = """
import json, os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
questions = json.loads((folder / "questions.json").read_text())
with Path({log!r}).open("a") as log:
    print(json.dumps(questions), file=log)
if {fails}:
    sys.exit("ImportError: no such library")
with (folder / "answers.jsonl").open("w") as file:
    print('"started"', file=file, flush=True)
    for rows, width in questions["shapes"]:
        if (rows, width) in {crashes}:
            os.kill(os.getpid(), signal.SIGSEGV)
        if (rows, width) in {hangs}:
            time.sleep(60)
        print(json.dumps([rows, width, {answer}]), file=file, flush=True)
"""


class Asked:
    """Answers in place of bitsandbytes, and what it has been asked."""

    def __init__(self, log: Path) -> None:
        self.log = log

    @property
    def starts(self) -> int:
        """How many processes have been started."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


def fake_kernel(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    answer: str = '""',
    crashes: tuple[kernels.Shape, ...] = (),
    hangs: tuple[kernels.Shape, ...] = (),
    fails: bool = False,
) -> Asked:
    """Let planning ask another process, in a home of its own.

    Args:
        answer: Python expression of `rows` and `width`: "" or why the kernel refuses.
        crashes: shapes at which the process dies.
        hangs: shapes that it never answers.
        fails: whether it ends before the first question.
    """
    folder.mkdir(exist_ok=True)
    script, log = folder / "kernel.py", folder / "asked.jsonl"
    script.write_text(
        _PROCESS.format(log=str(log), answer=answer, crashes=crashes, hangs=hangs, fails=fails)
    )
    monkeypatch.setenv("PAREDOWN_HOME", str(folder / "home-of-kernels"))
    monkeypatch.setattr(kernels, "_COMMAND", (sys.executable, str(script)))
    monkeypatch.setattr(kernels, "_known", {})
    return Asked(log)


def avx512_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bitsandbytes take, in this process, what it takes with AVX512-BF16.

    Its own code repacks the weights; only the product, which this processor may not have, is
    computed by `_product`, like the real one without a gradient.
    """
    import bitsandbytes as bnb

    monkeypatch.setattr(bnb.functional, "has_avx512bf16", lambda: True)
    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: True)
    monkeypatch.setattr(bnb.functional, "gemv_4bit", _product)


@torch.no_grad()
def _product(x: Tensor, packed: Tensor, *, out: Tensor | None, state: Any) -> Tensor:
    """`x W^T` for weights in the order of that kernel, (..., rows) in x's dtype.

    Of each block of 32 rows, every two bytes of a column hold the codes of 32 rows: the low halves
    of bytes come before the high ones. Scales are (width / 64, rows) in bfloat16.
    """
    assert out is None
    rows, width = state.shape
    halves = packed.reshape(-1, 32)
    codes = torch.cat((halves & 15, halves >> 4), dim=1).view(rows // 32, width // 2, 32, 2)
    codes = codes.transpose(1, 2).reshape(rows, width)
    scales = state.absmax.float().T.repeat_interleave(state.blocksize, dim=1)
    weight = state.code.float()[codes.long()] * scales
    found: Tensor = (x.bfloat16().float() @ weight.T).bfloat16().to(x.dtype)
    return found
