"""Which shapes a library's kernel computes on this machine: it is asked, never guessed.

bitsandbytes chooses its kernels by the processor, and each kernel has conditions of its own that no
document states: on processors with AVX512-BF16 its NF4 product needs widths in multiples of 64 and
rows in multiples of 32, elsewhere it takes any. A plan that such a kernel refuses would end in a
crashed trial, so planning asks the kernel itself, in a process of its own (a kernel that crashes
is an answer too), once per machine: answers are kept on disk.

Nothing here imports torch; `paredown.runtimes.torch.kernels` is what runs in that process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Literal

from paredown.errors import ConfigError
from paredown.hardware.detect import detect
from paredown.spec.serial import content_hash
from paredown.spec.target import Device
from paredown.store.cache import Cache

KernelName = Literal["nf4", "int8"]
Shape = tuple[int, int]
"""(rows, width) of a weight matrix."""

QUESTIONS, ANSWERS = "questions.json", "answers.jsonl"
"""Files between the two processes: what is asked, and an answer a line as soon as it is known."""
STARTED = "started"
"""First line of the answers: from here on, an end of the process is the kernel's doing."""
TIMEOUT_S = 300.0
"""An import takes seconds, even on a busy machine; a question takes milliseconds."""
_PERIOD = 256
"""Blocks of kernels are powers of two, none larger than this."""
_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_USUAL = (range(32, _PERIOD + 1, 32), range(_PERIOD, 2 * _PERIOD, 64))
"""Sizes of tiny models, and those that stand in for nearly all others: what pruning leaves is a
multiple of 32, and of 64 in larger models."""
_LIBRARIES = ("torch", "bitsandbytes", "kernels")
_SWITCHES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "BNB_CUDA_VERSION")
"""Environment variables by which users choose other kernels."""
_COMMAND = (sys.executable, "-m", "paredown.runtimes.torch.kernels")


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A product with packed weights, as one library computes it on one kind of device.

    Attributes:
        name: `nf4` or `int8`, both of bitsandbytes.
        device: where it runs.
        dtype: of activations, by safetensors name.
    """

    name: KernelName
    device: Device
    dtype: str


_known: dict[str, dict[Shape, str]] = {}
"""Answers that this process has read or asked for, by `_key`."""


def refusals(kernel: Kernel, shapes: Iterable[Shape]) -> dict[Shape, str]:
    """Those of `shapes` that the kernel does not compute here, and why not in its own words.

    Large matrices are asked for by small ones whose sizes leave the same rests (`stand_in`). Takes
    seconds when a kernel is first asked on a machine, and no time afterwards.

    Raises:
        ConfigError: the library does not even start here.
    """
    wanted = {shape: stand_in(shape) for shape in shapes}
    answers = _answers(kernel, set(wanted.values()))
    return {shape: why for shape, small in wanted.items() if (why := answers[small])}


def multiples(kernel: Kernel) -> Shape | None:
    """The powers of two that the kernel needs rows and widths to be multiples of; 1 for any.

    None if it follows no such rule (it refuses even multiples of 256).

    Raises:
        ConfigError: the library does not even start here.
    """
    answers = _answers(kernel, set(_rule_shapes()))
    found = []
    for axis in (0, 1):
        works = {step: not answers[_with_rest(axis, step)] for step in _STEPS}
        fits = [step for step in _STEPS if all(works[s] for s in _STEPS if s >= step)]
        if not fits:
            return None
        found.append(fits[0])
    return found[0], found[1]


def stand_in(shape: Shape) -> Shape:
    """A small matrix that a kernel accepts just when it accepts this one.

    Sizes of 512 and more are replaced by those from 256 to 511 with the same rest by 256, so that
    whether a whole number of blocks fits is the same question.
    """
    rows, width = (n if n < 2 * _PERIOD else _PERIOD + n % _PERIOD for n in shape)
    return rows, width


def _with_rest(axis: int, step: int) -> Shape:
    """A matrix whose one size is an odd multiple of `step` only; the other one fits any kernel."""
    odd = stand_in((_PERIOD + step, _PERIOD))
    return odd if axis == 0 else odd[::-1]


def _rule_shapes() -> list[Shape]:
    return [_with_rest(axis, step) for axis in (0, 1) for step in _STEPS]


def _answers(kernel: Kernel, shapes: set[Shape]) -> dict[Shape, str]:
    """Answers at least to `shapes`: "" for one that is computed, else why it is not."""
    key = _key(kernel)
    stored = Cache.default()
    if key not in _known:
        _known[key] = _read(stored.get("kernels", key, ".json"))
    known = _known[key]
    if missing := sorted(shapes - known.keys()):
        # Starting the process is what costs, so it is asked whatever may be wanted next.
        usual = {*_rule_shapes(), *(pair for sizes in _USUAL for pair in product(sizes, sizes))}
        known |= _ask(kernel, missing, sorted(usual - known.keys() - set(missing)))
        text = json.dumps([[*shape, why] for shape, why in sorted(known.items())])
        stored.put("kernels", key, ".json", lambda path: path.write_text(text))
    return known


def _read(path: Path | None) -> dict[Shape, str]:
    """Stored answers; none where there is no such file, or a damaged one."""
    if path is None:
        return {}
    try:
        return {
            (int(rows), int(width)): str(why) for rows, width, why in json.loads(path.read_text())
        }
    except (ConfigError, ValueError, TypeError):  # they are asked for again
        return {}


def _key(kernel: Kernel) -> str:
    switches = {name: os.environ.get(name) for name in _SWITCHES}
    return content_hash([asdict(kernel), _machine(), switches, _libraries()], length=32)


@cache
def _machine() -> dict[str, object]:
    """What decides which kernels run: processor with all its flags, GPUs."""
    machine = detect()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux: `detect` knows the flags that matter
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    gpus = [(gpu.name, gpu.compute_capability) for gpu in machine.gpus]
    return {"cpu": machine.cpu, "flags": [*machine.flags, flags], "gpus": gpus}


@cache
def _libraries() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _ask(kernel: Kernel, wanted: list[Shape], more: list[Shape]) -> dict[Shape, str]:
    """Answers to all that is `wanted`, and to `more` as far as no crash comes in between."""
    found: dict[Shape, str] = {}
    left = wanted
    while left:
        asked = [*left, *more]
        answers, death = _run(kernel, asked)
        found |= answers
        if death:  # the first question without an answer is what it died of
            culprit = next((shape for shape in asked if shape not in found), None)
            if culprit is not None:
                found[culprit] = death
        left = [shape for shape in left if shape not in found]
    return found


def _run(kernel: Kernel, shapes: list[Shape]) -> tuple[dict[Shape, str], str]:
    """What one process answers, and how it died of a question ("" if it did not).

    Raises:
        ConfigError: it ended before the first question, or by an error that no kernel explains.
    """
    with tempfile.TemporaryDirectory(prefix="paredown-kernels-") as name:
        folder = Path(name)
        (folder / QUESTIONS).write_text(json.dumps({**asdict(kernel), "shapes": shapes}))
        try:
            done = subprocess.run(
                [*_COMMAND, str(folder)], capture_output=True, check=False, timeout=TIMEOUT_S
            )
            code, errors = done.returncode, done.stderr.decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            code, errors = None, f"no answer within {TIMEOUT_S:.0f} s"
        written = folder / ANSWERS
        lines = written.read_text().splitlines(keepends=True) if written.is_file() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    answers = {(int(rows), int(width)): str(why) for rows, width, why in whole[1:]}
    if not whole or (code is not None and code > 0):
        last = errors.splitlines()[-1] if errors else f"exit code {code}"
        raise ConfigError(
            f"{kernel.name}: whether bitsandbytes works here could not be found out: {last}"
        )
    if code is None:
        return answers, f"does not end within {TIMEOUT_S:.0f} s"
    return answers, f"crashes ({signal.Signals(-code).name})" if code < 0 else ""
