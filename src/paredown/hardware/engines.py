"""What each engine does with memory: a row per runtime, from its documentation or measured here.

The engines themselves are driven in `paredown.runtimes`; planning for devices that are elsewhere
needs no engine, only its habits. `benchmarks/sizing.py` checks those that run on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

from paredown.errors import ConfigError, did_you_mean
from paredown.hardware.catalogue import Accelerator
from paredown.spec.weights import Piece

Split = Literal["tensor", "layers"]
"""How a model is spread over devices: every matrix cut, or every device some layers."""
MB = 1_000_000


@final
@dataclass(frozen=True, kw_only=True)
class OnProcessor:
    """What an engine holds on a processor at its fullest moment, where that is not what is stored.

    Fitted to `benchmarks/sizing.py` on a processor without bfloat16, where all engines compute in
    32 bits: random models of four shapes, and SmolLM2-135M in 16 and in 4 bits.

    Attributes:
        linear: bytes per number of the blocks' matrices that are not packed: pages of the file that
            stay mapped, and the copies that the engine makes of them.
        tied, untied: the same of an embedding that is the head too; of embedding and head, each.
        packed: times that packed weights lie in memory.
        layer_mb: of a layer beside its weights (1e6 bytes): compiled kernels, plans.
        loading: bytes per number of the embedding, its largest matrix, that are held for as long as
            it is converted.
        logits: copies of a prompt's logits, in 32 bits.
        spare: tokens that a sequence's cache has room for beyond what is asked.
    """

    linear: float
    tied: float
    untied: float
    packed: float
    layer_mb: float = 0.0
    loading: float = 0.0
    logits: float
    spare: int = 0

    def resident(self, piece: Piece, *, is_tied: bool) -> float | None:
        """Bytes of a piece; None where it is as the engine has it everywhere."""
        if piece.bits is not None:
            return None
        if piece.part in {"embedding", "head"}:
            return piece.numel * (self.tied if is_tied else self.untied)
        return piece.numel * self.linear


@final
@dataclass(frozen=True, kw_only=True)
class Habits:
    """How an engine holds a model.

    Attributes:
        name: of the runtime.
        vendors: of devices that it runs on; `cpu` is the processor.
        split: how it uses several devices.
        windows: whether a sliding layer keeps its window only; else everything, as engines with
            one page size for all layers do.
        unpacks: whether packed weights become 16 bits.
        nests: whether two-level grids stay packed; else they become 16 bits.
        held: bits of a code -> bits that it takes per weight, scales included, where that differs
            from what is stored; codes of other widths are stored as they are.
        copied: bits of a code -> bits per weight that lie in memory once more on a processor,
            because the engine reorders what it has mapped from its file.
        token_bytes: of the engine's own tokenizer, per token of the vocabulary.
        dense_bytes: per number of what is not packed; None: as stored.
        cache_bytes: per number of keys and values.
        chunk: tokens of a prompt that are computed at once; None: all of them.
        prompt_logits: whether logits of every token of a prompt are computed, or of the last.
        process_mb: of the process on a processor before any weight (1e6 bytes).
        context_mb: of the driver and the engine on a GPU (1e6 bytes).
        share: of a GPU's memory that it takes at most.
        layer_us: time per layer and step that no size explains, microseconds, on a GPU.
        decodes: times as fast as `torch` decodes an artifact of 4 bits on a processor, lowest and
            highest seen; None: not measured. SmolLM2-135M, one thread, on a processor with AMX and
            on one without bfloat16 (`benchmarks/runtimes.py`).
        processor: what else it holds on a processor; None: nothing.
        source: where this comes from.
    """

    name: str
    vendors: tuple[str, ...]
    split: Split
    windows: bool
    unpacks: bool = False
    nests: bool = False
    held: Mapping[int, float] = field(default_factory=dict)
    copied: Mapping[int, float] = field(default_factory=dict)
    token_bytes: float = 0.0
    dense_bytes: int | None = None
    cache_bytes: int = 2
    chunk: int | None = None
    prompt_logits: bool = False
    process_mb: float
    context_mb: float
    share: float = 0.95
    layer_us: float
    decodes: tuple[float, float] | None = None
    processor: OnProcessor | None = None
    source: str

    def resident(self, piece: Piece) -> float:
        """Bytes that a piece takes once it is loaded."""
        if piece.bits is None:
            return piece.nbytes if self.dense_bytes is None else piece.numel * self.dense_bytes
        if self.unpacks or (piece.is_nested and not self.nests):
            return 2 * piece.numel
        if piece.is_nested:
            return piece.nbytes
        if piece.bits in self.held and not piece.is_float:
            return piece.numel * self.held[piece.bits] / 8
        return piece.nbytes


_GPUS = ("nvidia", "amd", "intel")
_INT4_KERNEL = dict.fromkeys((2, 3, 4), 4.5)
_TWO_HALVES = dict.fromkeys((5, 6, 7, 8), 9.0)

ENGINES: dict[str, Habits] = {
    "vllm": Habits(
        name="vllm", vendors=(*_GPUS, "cpu"), split="tensor", windows=False, chunk=8192,
        process_mb=1500, context_mb=1500, share=0.92, layer_us=15,
        source="vLLM's documentation: gpu_memory_utilization 0.92, chunked prefill, pages of one "
        "size; context and graphs as in aiconfigurator; not run here",
    ),
    "transformers": Habits(
        name="transformers", vendors=("nvidia", "amd", "cpu"), split="layers", windows=True,
        unpacks=True, prompt_logits=True, process_mb=420, context_mb=700, layer_us=250,
        source="processor: benchmarks/sizing.py; GPU: estimated",
    ),
    "torch": Habits(
        name="torch", vendors=("nvidia", "amd", "cpu"), split="layers", windows=True,
        held={**_INT4_KERNEL, **_TWO_HALVES}, prompt_logits=True, process_mb=420, context_mb=700,
        layer_us=250, source="processor: benchmarks/sizing.py; GPU: estimated",
    ),
    "llama.cpp": Habits(
        name="llama.cpp", vendors=(*_GPUS, "apple", "cpu"), split="layers", windows=True,
        held={**dict.fromkeys((2, 3, 4), 4.5), 5: 5.5, **dict.fromkeys((6, 7, 8), 8.5)},
        copied=dict.fromkeys((2, 3, 4), 4.5), token_bytes=300, chunk=512,
        nests=True, process_mb=45, context_mb=500, layer_us=30,
        decodes=(1.7, 4.8),
        source="GGUF blocks of 32 weights with a 16-bit scale (Q4_0, Q5_0, Q8_0); n_ubatch 512; "
        "Q4_0 is put into another order for AVX2 while the file's pages stay resident",
    ),
    "onnxruntime": Habits(
        name="onnxruntime", vendors=("cpu", "nvidia"), split="layers", windows=False,
        held={2: 2.5, 3: 4.5, 4: 4.5, **dict.fromkeys((5, 6, 7, 8), 8.5)}, dense_bytes=4,
        cache_bytes=4, prompt_logits=True, process_mb=70, context_mb=700, layer_us=30,
        decodes=(1.9, 5.0),
        processor=OnProcessor(
            linear=4.0, tied=9.0, untied=4.0, packed=1.6, logits=3.0, spare=1024
        ),
        source="ONNX Runtime GenAI: MatMulNBits of 2, 4 and 8 bits; what is not packed, and "
        "keys and values, in 32 bits, as its kernels on processors compute",
    ),
    "openvino": Habits(
        name="openvino", vendors=("cpu", "intel"), split="layers", windows=False,
        held={**dict.fromkeys((2, 3, 4), 4.5), **dict.fromkeys((5, 6, 7, 8), 8.5)},
        prompt_logits=True, process_mb=120, context_mb=500, layer_us=30,
        processor=OnProcessor(
            linear=8.1, tied=4.4, untied=2.4, packed=1.9, layer_mb=6.0, loading=4.0, logits=1.6
        ),
        source="OpenVINO holds u4 and u8 packed and unfolds 3 and 6 bits, so that codes of 2 to 4 "
        "bits are written as u4, of 5 to 8 as u8",
    ),
}  # fmt: skip
"""By name of the runtime."""


def habits(name: str) -> Habits:
    """The row of a runtime.

    Raises:
        ConfigError: none is so called.
    """
    if name not in ENGINES:
        raise ConfigError(
            f"--runtime {name[:40]!r}: no such runtime; {did_you_mean(name, ENGINES)}"
        )
    return ENGINES[name]


def usual(device: Accelerator) -> Habits:
    """The engine that most people serve with on such a device."""
    if device.vendor in {"nvidia", "amd"} and not device.name.startswith(("Jetson", "RX")):
        return ENGINES["vllm"]
    is_gaudi = device.arch == "gaudi"
    return ENGINES["vllm"] if is_gaudi else ENGINES["llama.cpp"]
