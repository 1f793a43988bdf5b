"""An artifact, or a base model, as ONNX: drawn by the builder of GenAI, filled with its numbers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import read_schemes
from paredown.blocks.skeleton import read_config
from paredown.errors import MethodError
from paredown.runtimes.onnxruntime.graph import Graph
from paredown.runtimes.onnxruntime.matrices import layout_of
from paredown.runtimes.onnxruntime.proof import require_equal
from paredown.runtimes.onnxruntime.skeleton import stored_layers, stored_shape, write_skeleton
from paredown.runtimes.torch.generation import end_tokens, read_generation
from paredown.spec.reading import read_object
from paredown.spec.scheme import Scheme
from paredown.spec.structure import input_name
from paredown.store.atomic import write_json
from paredown.text.windows import load_tokenizer

ACCURACY_LEVEL = 4
"""Inputs of products are rounded to 8 bits per block. Level 0 computes in float32."""
CONFIG = "genai_config.json"
BUILD_S = 1800.0
"""Longest time to draw a graph: seconds for a small model, a minute or two for hundreds of layers
on a busy machine."""
_LAST_LINES = 4


def write_onnx(artifact: Path, out: Path, *, accuracy: int = ACCURACY_LEVEL) -> tuple[str, ...]:
    """Write `artifact` into the folder `out`, and see that every packed number is the artifact's.

    Args:
        accuracy: level of MatMulNBits: 0 (float32) or 4 (8-bit inputs).

    Returns:
        Notes: what a user should know of the files.

    Raises:
        ConfigError: something that ONNX Runtime does not compute alike.
        MethodError: the builder failed; with the last lines of its log.
        VerificationError: what was written is not what is stored.
    """
    checkpoint, config = Checkpoint(artifact), read_config(artifact)
    schemes = read_schemes(checkpoint)
    with tempfile.TemporaryDirectory(dir=out, prefix=".build-") as scratch:
        folder, drawn = Path(scratch) / "model", Path(scratch) / "graph"
        write_skeleton(checkpoint, config, folder)
        _build(folder, drawn, fuse=_alike(checkpoint, schemes))
        graph = Graph(drawn / "model.onnx", checkpoint, schemes, accuracy)
        packed = graph.fill()
        graph.save(out)
        _write_settings(artifact, drawn / CONFIG, out, config)
    require_equal(out, packed)
    return _notes(schemes, accuracy)


def _notes(schemes: dict[str, Scheme], accuracy: int) -> tuple[str, ...]:
    if not schemes or accuracy == 0:
        return ()
    return (
        "inputs of packed products are rounded to 8 bits per block (accuracy level 4), as ONNX "
        "Runtime does by default",
    )


def _alike(checkpoint: Checkpoint, schemes: dict[str, Scheme]) -> bool:
    """Whether q, k and v lie alike in every block, so that each three can be one product."""
    if any(name.endswith(".q_norm.weight") for name in checkpoint.names):
        return False  # heads are normalized apart, and the builder cuts them by the rows of stubs
    layouts: dict[str, set[Any]] = {}
    for name in stored_layers(checkpoint):
        if name.endswith(("q_proj", "k_proj", "v_proj")):
            width = stored_shape(checkpoint, name)[1]
            layouts.setdefault(input_name(name), set()).add(layout_of(schemes.get(name), width))
    return all(len(found) == 1 for found in layouts.values())


def _build(folder: Path, out: Path, *, fuse: bool) -> None:
    """Draw the graph, in a process that takes what it needed with it."""
    out.mkdir()
    words = [sys.executable, "-m", "paredown.runtimes.onnxruntime.build", str(folder), str(out)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(
            [*words, str(fuse).lower()], env=environment, capture_output=True, check=False,
            timeout=BUILD_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise MethodError(f"onnxruntime: its builder did not end within {BUILD_S:g} s") from None
    if done.returncode or not (out / "model.onnx").exists():
        raise MethodError(
            f"onnxruntime: its builder failed (exit code {done.returncode}); its log ends: "
            f"{_last_lines(done.stderr.decode(errors='replace').splitlines())}"
        )


def _last_lines(lines: Iterable[str]) -> str:
    return " | ".join([line.strip() for line in lines if line.strip()][-_LAST_LINES:])


def _write_settings(artifact: Path, drawn: Path, out: Path, config: Any) -> None:
    """Tokenizer and settings; every token that ends a text is named in them."""
    tokenizer = load_tokenizer(artifact)
    tokenizer.save_pretrained(out)
    read = SimpleNamespace(config=config, generation_config=read_generation(artifact))
    told = read_object(drawn, finite=False)
    # Some tokenizers add an end that the model has no row for.
    if ends := [token for token in end_tokens(read, tokenizer) if token < config.vocab_size]:
        told["model"]["eos_token_id"] = ends
    write_json(out / CONFIG, told)
