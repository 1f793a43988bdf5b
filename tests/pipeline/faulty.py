"""A plug-in whose methods fail in every way a library can; installed into a temporary folder."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Literal, final

from paredown.methods.base import Context, Kind, Method, Params
from paredown.spec.model import ModelSpec
from paredown.spec.target import Target


class FaultyParams(Params):
    """How to fail."""

    how: Literal[
        "hang", "crash", "kill", "exit", "memory", "raise", "lie", "nan", "ruin", "nothing",
        "guess", "children", "bar",
    ] = "raise"  # fmt: skip
    """What happens in `apply`."""


@final
class Faulty(Method[FaultyParams]):
    """Fails while compressing, or builds an artifact that is not what it says."""

    name = "faulty"
    kind = Kind.PRUNING
    summary = "fails"
    params_type = FaultyParams

    def check(self, spec: ModelSpec, params: FaultyParams, target: Target) -> None:
        pass

    def knows_bytes(self, params: FaultyParams) -> bool:
        return params.how != "guess"

    def predict(self, spec: ModelSpec, params: FaultyParams) -> ModelSpec:
        if params.how not in ("nothing", "guess"):
            return spec
        eight = dict.fromkeys(spec.structure.linears, "I8")
        return spec.with_tensors(
            [
                t.model_copy(update={"dtype": eight.get(t.name.removesuffix(".weight"), t.dtype)})
                for t in spec.tensors
            ]
        )

    def apply(self, source: Any, out: Path, params: FaultyParams, context: Context) -> Any:
        (out / "half-written.bin").write_bytes(b"x")
        match params.how:
            case "hang":
                time.sleep(1000)
            case "children":
                child = subprocess.Popen(["sleep", "1000"])
                (out.parent / "artifact.pid").write_text(str(child.pid))
                child.wait()
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "bar":
                from tqdm import tqdm

                raise RuntimeError(f"after {len(list(tqdm([1, 2], disable=True)))} steps")
            case "exit":
                os._exit(0)
            case "memory":
                hog = [bytearray(os.urandom(1 << 20)) * 50 for _ in range(100)]
                time.sleep(len(hog))
            case "raise":
                raise RuntimeError("the library gave up")
            case "lie" | "nan":
                return _write_wrong(source, out, params.how)
            case "nothing" | "guess":
                return _write_unchanged(source, out)
            case "ruin":
                return _write_ruined(source, out)
        raise AssertionError(params.how)


def _write_unchanged(source: Any, out: Path) -> None:
    """Store the model as it was: it reloads, and nothing has been done to it."""
    from paredown.artifact.checkpoint import CheckpointWriter

    with CheckpointWriter(out, source) as writer:
        writer.copy_rest(without=set())


def _write_ruined(source: Any, out: Path) -> None:
    """Store a model that is very sure of nonsense: it reloads, and is worth nothing."""
    from paredown.artifact.checkpoint import CheckpointWriter

    with CheckpointWriter(out, source) as writer:
        for name in source.names:
            writer.add(name, source.read(name) * (30.0 if name == "model.norm.weight" else 1.0))


def _write_wrong(source: Any, out: Path, how: str) -> Any:
    """Store other weights than those whose logits are claimed."""
    from paredown.artifact.checkpoint import CheckpointWriter
    from paredown.blocks.probe import probe_tokens
    from paredown.runtimes.torch.load import load
    from paredown.runtimes.torch.proof import probe

    with CheckpointWriter(out, source) as writer:
        for name in source.names:
            value = source.read(name)
            if name.endswith("down_proj.weight"):
                value = value * (float("nan") if how == "nan" else 1.5)
            writer.add(name, value)
    return probe(load(source.folder), probe_tokens(source.spec.vocabulary))
