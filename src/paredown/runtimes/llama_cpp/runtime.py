"""The runtime `llama.cpp`: GGUF files with an artifact's own numbers, opened in its own process."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from paredown.runtimes.base import SERVER, Needs, Package, Serving
from paredown.runtimes.files import FileEngine
from paredown.runtimes.llama_cpp.architectures import why_not_held
from paredown.runtimes.llama_cpp.header import header_bytes
from paredown.runtimes.llama_cpp.tensor_types import (
    BLOCK,
    MINIMUM_TYPES,
    block_type,
    dense_type,
    integer_range,
    tensor_bytes,
)
from paredown.spec.layers import (
    Format,
    LayerOption,
    LayerUnit,
    grid_option,
    superblock_option,
)
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.scheme import HALF_BITS, GridKind
from paredown.spec.structure import is_expert, layer_shape
from paredown.spec.superblocks import SUPER_LAYOUTS, SUPERBLOCK
from paredown.spec.target import Device

if TYPE_CHECKING:
    from paredown.runtimes.session import Session

FILE = "model.gguf"
"""Name of the weights file in a package."""
_SERVER = Path(__file__).with_name("server.py")
_USUAL = Serving()


@final
class LlamaCpp(FileEngine):
    """llama.cpp as the wheel `xllamacpp` carries it (CPU)."""

    name = "llama.cpp"
    summary = "GGUF with the artifact's own numbers, in llama.cpp's own process"
    source = (
        "ggml-common.h and src/models of llama.cpp; every file is read back and compared number by "
        "number in the tests, and its log-probabilities with the artifact's at every trial"
    )
    needs = Needs(module="xllamacpp", extra="llama-cpp", devices=("cpu",))
    files: ClassVar[tuple[str, ...]] = (FILE,)
    blocks: ClassVar[str] = f"its blocks of {BLOCK}"
    multiple: ClassVar[int] = BLOCK
    formats: ClassVar[frozenset[Format]] = frozenset({Format.GRID, Format.SUPERBLOCK})
    grids: ClassVar[tuple[GridKind, ...]] = tuple(GridKind)
    # It rounds inputs to 8 bits: 0.011 with SmolLM2-135M at 4 bits, 0.0002 at 16. Another order of
    # rows, or one missing number of the config, makes 1 and more.
    kl_bound: ClassVar[float] = 0.1
    caches: ClassVar[tuple[str, ...]] = ("f16", "f32", "bf16", "q8_0", "q5_0", "q4_0")

    def joins(self, spec: ModelSpec) -> tuple[LayerUnit, ...]:
        """Each layer alone; of a block's experts, those that do the same share one tensor."""
        joined: dict[str, list[str]] = {}
        for unit in super().joins(spec):
            (name,) = unit.layers
            key = name
            if is_expert(name):
                head, _, tail = name.partition("experts.")
                key = f"{head}experts.{tail.partition('.')[2]}"
            joined.setdefault(key, []).append(name)
        return tuple(LayerUnit(tuple(names)) for names in joined.values())

    def option_bytes(self, option: LayerOption, shape: tuple[int, int]) -> int:
        kind = block_type(option)
        if kind is None:
            return math.prod(shape) * option.bits // 8
        return tensor_bytes(kind, shape)

    def other_bytes(self, spec: ModelSpec) -> int:
        return header_bytes(spec)

    def stored_kinds(self, package: Package) -> dict[str, int]:
        from paredown.runtimes.llama_cpp.contents import bytes_by_kind

        return bytes_by_kind(self.package(package.folder).folder / FILE)

    def open(self, folder: Path, *, device: Device, trust_remote_code: bool = False) -> Session:
        from paredown.runtimes.llama_cpp.session import LlamaSession

        self.require()
        return LlamaSession(self.package(folder).folder / FILE, device=device)

    def server(
        self, package: Package, *, host: str, port: int, serving: Serving = _USUAL
    ) -> tuple[str, ...]:
        folder = self.package(package.folder).folder
        options = {
            "host": host, "port": port, "name": serving.name, "context": serving.context,
            "slots": serving.slots, "queue": serving.queue, "threads": serving.threads,
            "cache": serving.cache,
        }  # fmt: skip
        given = ((f"--{k}", str(v)) for k, v in options.items() if v is not None)
        # As a file, not as a module: the very process that runs where there is no paredown.
        return sys.executable, str(_SERVER), str(folder), *(word for pair in given for word in pair)

    def server_files(self) -> Mapping[str, Path]:
        return {SERVER: _SERVER}

    def _refused_grid(
        self, spec: ModelSpec, unit: LayerUnit, option: LayerOption
    ) -> tuple[str, str] | None:
        if option.format is Format.SUPERBLOCK:
            return self._refused_superblock(spec, unit)
        if option.scale_dtype not in {"BF16", "F16"}:
            return (
                f"scales in {option.scale_dtype} are rounded by its half-precision scales",
                "begin with cast, so that the model is in 16 bits",
            )
        if block_type(option) is None:
            low, high = integer_range(option.bits, symmetric=option.symmetric)
            return (
                f"{option.bits} bits asymmetric are integers from {low} to {high}, and its largest "
                "blocks hold -128 to 127",
                "",
            )
        return super()._refused_grid(spec, unit, option)

    def _refused_superblock(self, spec: ModelSpec, unit: LayerUnit) -> tuple[str, str] | None:
        for name in unit.layers:
            shape = layer_shape(spec, name)
            if shape is not None and shape[1] % SUPERBLOCK:
                return f"rows of {shape[1]} inputs are not made of super-blocks of {SUPERBLOCK}", ""
        return None

    def _candidates(self, spec: ModelSpec, shapes: list[tuple[int, int]]) -> list[LayerOption]:
        """Its asymmetric types and its two-level ones besides."""
        plain = super()._candidates(spec, shapes)
        groups = dict.fromkeys(
            option.group_size for option in plain if option.format is Format.GRID
        )
        short = [
            grid_option(
                bits, group, symmetric=False, scale_dtype=spec.dtype, scale_bits=HALF_BITS - bits
            )
            for bits in MINIMUM_TYPES
            for group in groups
        ]
        return [*plain, *short, *map(superblock_option, SUPER_LAYOUTS)]

    def _divides(self, option: LayerOption, width: int) -> bool:
        group = option.group_size if option.group_size > 0 else width
        return group % BLOCK == 0 and width % BLOCK == 0

    def _stored(self, spec: ModelSpec) -> Iterable[TensorInfo]:
        return spec.tensors

    def _dense_bytes(self, tensor: TensorInfo) -> int:
        return tensor_bytes(dense_type(tensor.name, tensor.dtype, tensor.shape), tensor.shape)

    def _refused_model(self, spec: ModelSpec) -> tuple[str, str] | None:
        return why_not_held(spec)

    def _write(self, artifact: Path, folder: Path) -> Sequence[str]:
        from paredown.runtimes.llama_cpp.export import GgufFile

        file = GgufFile.of(artifact)
        file.write(folder / FILE)
        return file.notes
