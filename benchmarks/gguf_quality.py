"""Does a GGUF of ours lose less than one of the same bytes by llama.cpp's own quantizer?

llama.cpp's side: its quantization kernels as the wheel xllamacpp carries them
(`ggml_quantize_chunk`), with an importance matrix: the mean square of every input on the
calibration text, as `llama-imatrix` collects it. The types of the tensors are those that its
recipes choose (`llama_tensor_get_type`), written out below. Ours, on the same calibration text:
codes by GPTQ on the very same types, tensor by tensor (equal bytes by construction), and `mixed`
for at most as many bytes. Base and files are opened in llama.cpp; KL is from the uncompressed model
in float32, in nats per token, on held-out text, with the standard error of the mean over windows.

    python benchmarks/gguf_quality.py --model demo
    python benchmarks/gguf_quality.py --text wikitext2 --other pydoc --data-dir DIR
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import table
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.source import locate
from paredown.blocks.hessians import HessianBank
from paredown.blocks.skeleton import read_config
from paredown.methods import registry
from paredown.methods.base import Context, Training
from paredown.ops.divergence import kl_rows
from paredown.runtimes.llama_cpp.architectures import ARCHITECTURES
from paredown.runtimes.llama_cpp.export import GgufFile, tensor_names
from paredown.runtimes.llama_cpp.library import find_library
from paredown.runtimes.llama_cpp.runtime import FILE
from paredown.runtimes.llama_cpp.session import LlamaSession
from paredown.runtimes.llama_cpp.tensor_types import ALL_TYPES, BlockType
from paredown.runtimes.llama_cpp.tensors import FileTensor, Source
from paredown.runtimes.registry import engine
from paredown.runtimes.torch.load import load
from paredown.runtimes.torch.writer import write_texts
from paredown.spec.embeddings import find_embedding
from paredown.spec.superblocks import SUPERBLOCK
from paredown.store.cache import Cache
from paredown.store.content import model_hash
from paredown.text.windows import TextRequest, windows

WINDOW = 512
TYPES = {kind.name: kind for kind in ALL_TYPES}
FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What llama.cpp takes for rows that are no whole super-blocks. (Q2_K and Q3_K really become
IQ4_NL, which has Q4_0's bytes and is not among our types.)"""
WORDS = {
    "Q4_0": "4s32", "Q5_0": "5s32", "Q8_0": "8s32", "Q4_1": "4a32r", "Q5_1": "5a32r",
    "Q2_K": "2k", "Q3_K": "3k", "Q4_K": "4k", "Q5_K": "5k", "Q6_K": "6k",
}  # fmt: skip
"""Our grids of the same types, as words of a plan."""


NAMES = {
    "theirs": "llama.cpp with imatrix, ", "same_types": "ours, types of ",
    "mixed": "ours, mixed, bytes of ",
}  # fmt: skip


# --- llama.cpp's side -----------------------------------------------------------------------------


def recipe_type(recipe: str, tensor: str, shape: tuple[int, ...], blocks: int) -> BlockType:
    """The type that a recipe (`Q4_0`, `Q4_K_M`, ...) gives a matrix of the file, with imatrix."""
    name = recipe.removesuffix("_M").removesuffix("_S")
    block = int(tensor.split(".")[1]) if tensor.startswith("blk.") else -1
    if block < 0:  # embedding, which is the tied head as well
        name = "Q8_0" if recipe == "Q8_0" else "Q6_K"
    elif recipe.endswith("_K_M") and any(part in tensor for part in ("attn_v", "ffn_down")):
        name = {"Q3_K": "Q5_K" if block < 2 else "Q4_K"}.get(name, name)
        if more_bits(block, blocks) and recipe != "Q3_K_M":
            name = "Q6_K"
    elif recipe in {"Q4_0", "Q5_0"} and "ffn_down" in tensor and block < blocks // 8:
        name = {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}[recipe]
    if name in FALLBACK and shape[-1] % SUPERBLOCK:
        name = FALLBACK[name]
    return TYPES[name]


def more_bits(block: int, blocks: int) -> bool:
    """Blocks whose values and down projections a mixed recipe spares."""
    eighth = blocks // 8
    return block < eighth or block >= 7 * blocks // 8 or (block - eighth) % 3 == 2


class Quantizer:
    """`ggml_quantize_chunk` of the wheel."""

    def __init__(self) -> None:
        self._call = ctypes.CDLL(str(find_library())).ggml_quantize_chunk
        self._call.restype = ctypes.c_size_t
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._call.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]

    def __call__(self, rows: Any, kind: BlockType, importance: Any) -> Any:
        """(n, bytes) of float32 rows (n, width); `importance` (width,) float32, or None."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        out = np.zeros((len(rows), rows.shape[1] // kind.block * kind.block_bytes), dtype=np.uint8)
        weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
        where = None if weights is None else weights.ctypes.data
        written = self._call(kind.number, rows.ctypes.data, out.ctypes.data, 0, *rows.shape, where)
        if written != out.nbytes:
            raise AssertionError(f"{kind.name}: {written} bytes instead of {out.nbytes}")
        return out


@dataclass(frozen=True)
class Requantized:
    """A dense matrix of the file on a type by llama.cpp's quantizer."""

    source: Source
    dense: str
    kind: BlockType
    importance: Any
    quantizer: Quantizer

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def parts(self) -> Iterator[Any]:
        dtype = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[self.dense]
        for part in self.source.parts():
            raw = torch.from_numpy(np.ascontiguousarray(part).reshape(-1)).view(dtype)
            rows = raw.float().reshape(-1, self.shape[-1]).numpy()
            yield self.quantizer(rows, self.kind, self.importance)


def requantized(base: Path, recipe: str, importance: Mapping[str, Any], out: Path) -> Path:
    """The base in llama.cpp's own quantization, as a package."""
    file, quantizer = GgufFile.of(base), Quantizer()
    blocks = Checkpoint(base).spec.layers or 0
    tensors: list[FileTensor] = []
    for tensor in file.tensors:
        if isinstance(tensor.kind, BlockType) or len(tensor.shape) != 2:
            tensors.append(tensor)
            continue
        kind = recipe_type(recipe, tensor.name, tensor.shape, blocks)
        source = Requantized(
            tensor.source, tensor.kind, kind, importance.get(tensor.name), quantizer
        )
        tensors.append(FileTensor(name=tensor.name, kind=kind, source=source))
    out.mkdir()
    replace(file, tensors=tensors).write(out / FILE)
    return out


# --- Both sides -----------------------------------------------------------------------------------


@dataclass
class Bench:
    """A model with its texts, and what is known of both."""

    base: Path
    requests: dict[str, TextRequest]
    options: argparse.Namespace
    scratch: Path

    def read(self, text: str, part: Any, count: int) -> Tensor:
        """(count, WINDOW) tokens of a text's part."""
        return windows(
            self.requests[text], part, self.base, count=count, length=WINDOW, seed=0,
            cache=Cache.default(), write=write_texts,
        )  # fmt: skip

    def context(self) -> Context:
        """As a run gives it to a method."""
        read = partial(self.read, self.options.text, "calibration")
        return Context(
            device="cpu", seed=0, source_hash=model_hash(self.base), scratch=self.scratch,
            cache=Cache.default(), calibration=lambda: read(self.options.samples),
            progress=lambda share, message: print(f"\r{share:4.0%} {message[:60]:60}", end=""),
            training=Training(base=self.base, windows=lambda n, length, name: read(n)),
        )  # fmt: skip

    @cached_property
    def importance(self) -> dict[str, Any]:
        """Mean square of every input by the file's name of the matrix: an importance matrix."""
        source, context = Checkpoint(self.base), self.context()
        bank = HessianBank(
            source, source_hash=context.source_hash, tokens=context.calibration(),
            cache=context.cache, device="cpu", head=True, progress=context.progress,
        )  # fmt: skip
        for block, module in bank.walk:
            bank.of_block(block, module)
        names = self.names()
        return {
            f"{names.get_name(name)}.weight": moments.diagonal().numpy()
            for block in source.spec.structure.blocks
            for name, moments in bank.of_kept_block(block).items()
        }

    def names(self) -> Any:
        """gguf's names of the modules."""
        config = read_config(self.base).get_text_config()
        return tensor_names(ARCHITECTURES[Checkpoint(self.base).spec.model_type], config)

    def theirs(self, recipe: str, rows: list[dict[str, Any]]) -> Path:
        """The base in llama.cpp's own quantization."""
        return requantized(self.base, recipe, self.importance, self.scratch / f"theirs-{recipe}")

    def same_types(self, recipe: str, rows: list[dict[str, Any]]) -> Path:
        """Ours, by a plan of llama.cpp's types."""
        spec, names = Checkpoint(self.base).spec, self.names()
        plan = {}
        for name in (*spec.structure.linears, find_embedding(spec)):
            target = f"{names.get_name(name)}.weight"
            shape = spec.by_name[f"{name}.weight"].shape
            plan[name] = WORDS[recipe_type(recipe, target, shape, spec.layers or 0).name]
        return self.ours(f"mixed(plan={json.dumps(plan)})", f"same-{recipe}")

    def mixed(self, recipe: str, rows: list[dict[str, Any]]) -> Path:
        """Ours, types chosen for at most the bytes of llama.cpp's file."""
        size = next(row["nbytes"] for row in rows if row["name"] == f"theirs {recipe}")
        return self.ours(f"mixed(size={size})", f"mixed-{recipe}")

    def ours(self, strategy: str, name: str) -> Path:
        """An artifact of ours as a package."""
        artifact, out = self.scratch / f"artifact-{name}", self.scratch / name
        artifact.mkdir()
        ((method, params),) = registry.resolve(registry.for_runtime(strategy, "llama.cpp"))
        method.apply(Checkpoint(self.base), artifact, params, self.context())
        engine("llama.cpp").export(artifact, out)
        return out

    def judge(self, folder: Path) -> dict[str, Any]:
        """Bytes, and KL on every text with its standard error."""
        session = LlamaSession(folder / FILE)
        found: dict[str, Any] = {"nbytes": (folder / FILE).stat().st_size}
        for text, expected in self.base_logprobs.items():
            tokens = self.read(text, "evaluation", self.options.windows)
            kls = [
                float(kl_rows(wanted, made).mean())
                for wanted, made in zip(expected, session.logprobs(tokens), strict=True)
            ]
            found[text] = (statistics.fmean(kls), statistics.stdev(kls) / math.sqrt(len(kls)))
        session.close()
        return found

    @cached_property
    def base_logprobs(self) -> dict[str, list[Tensor]]:
        """Of the uncompressed model in float32, on every text: (positions, vocabulary)."""
        model = load(self.base, dtype=torch.float32)
        found: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            for text in self.requests:
                tokens = self.read(text, "evaluation", self.options.windows)
                found[text] = [
                    model(window[None]).logits[0, :-1].log_softmax(-1) for window in tokens
                ]
        return found


def measure(options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """A row for each file; those that a results file has already are not made again."""
    requests = {
        text: TextRequest(text, None, options.data_dir) for text in (options.text, options.other)
    }
    bench = Bench(locate(options.model), requests, options, scratch)
    rows = [json.loads(line) for line in _lines(options.results)]
    for recipe in options.recipes.split(","):
        for side in (bench.theirs, bench.same_types, bench.mixed):
            name = f"{side.__name__} {recipe}"
            if any(row["name"] == name for row in rows):
                continue
            folder = side(recipe, rows)
            rows.append({"recipe": recipe, "name": name, **bench.judge(folder)})
            print(f"\r{json.dumps(rows[-1])}", flush=True)
            if options.results is not None:
                with options.results.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    return rows


def _lines(results: Path | None) -> list[str]:
    return results.read_text().splitlines() if results is not None and results.exists() else []


def show(rows: list[dict[str, Any]], texts: list[str]) -> None:
    """The rows as a table, each beside llama.cpp's file of the same recipe."""
    lines: list[tuple[str, ...]] = [
        ("file", "MB", *(f"KL {text}" for text in texts), *(f"ratio {text}" for text in texts))
    ]
    rivals = {row["recipe"]: row for row in rows if row["name"].startswith("theirs")}
    for row in rows:
        kls = (f"{row[text][0]:.4f} +- {row[text][1]:.4f}" for text in texts)
        rival = rivals[row["recipe"]]
        ratios = (f"{row[text][0] / rival[text][0]:.2f}" for text in texts)
        lines.append(
            (
                NAMES[row["name"].partition(" ")[0]] + row["recipe"],
                f"{row['nbytes'] / 1e6:.1f}",
                *kls,
                *ratios,
            )
        )
    print(table(lines))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="demo, or a model folder")
    parser.add_argument("--recipes", default="Q4_0,Q4_K_M", help="of llama.cpp, comma between")
    parser.add_argument("--text", default="pydoc", help="calibrates, and is judged on")
    parser.add_argument("--other", default="pydoc", help="another one, only judged on")
    parser.add_argument("--results", type=Path, default=None, help="where rows are kept")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--samples", type=int, default=32, help="calibration windows of 512")
    parser.add_argument("--windows", type=int, default=8, help="held-out windows of each text")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(options, Path(scratch))
    show(rows, list(dict.fromkeys((options.text, options.other))))


if __name__ == "__main__":
    main()
