"""The runtime `llama.cpp`: GGUF files with an artifact's own numbers, opened in its own process."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from paredown.errors import ModelError
from paredown.runtimes.base import Claim, Engine, Needs, Package, Serving, require_read
from paredown.runtimes.llama_cpp.architectures import why_not_held
from paredown.runtimes.llama_cpp.tensor_types import (
    BLOCK,
    block_type,
    dense_type,
    integer_range,
    tensor_bytes,
)
from paredown.spec.infer import infer_spec
from paredown.spec.layers import Format, LayerOption, LayerUnit
from paredown.spec.model import ModelSpec
from paredown.spec.reading import read_object
from paredown.spec.result import Evidence
from paredown.spec.structure import is_expert, layer_shape
from paredown.spec.target import Device
from paredown.store.atomic import new_folder, write_json

if TYPE_CHECKING:
    from paredown.runtimes.session import Session

FILE = "model.gguf"
"""Name of the weights file in a package."""
NOTES = "export.json"
"""What a user should know of how it was written; there only if there is something."""
_SERVER = Path(__file__).with_name("server.py")
_USUAL = Serving()


@final
class LlamaCpp(Engine):
    """llama.cpp as the wheel `xllamacpp` carries it (CPU)."""

    name = "llama.cpp"
    summary = "GGUF with the artifact's own numbers, in llama.cpp's own process"
    source = (
        "ggml-common.h and src/models of llama.cpp; every file is read back and compared number by "
        "number in the tests, and its log-probabilities with the artifact's at every trial"
    )
    needs = Needs(module="xllamacpp", extra="llama-cpp", devices=("cpu",))
    evidence: ClassVar[Evidence] = "checked"
    own_files: ClassVar[bool] = True
    # It rounds inputs to 8 bits: 0.011 with SmolLM2-135M at 4 bits, 0.0002 at 16. Another order of
    # rows, or one missing number of the config, makes 1 and more.
    kl_bound: ClassVar[float] = 0.1

    def holds(
        self, spec: ModelSpec, unit: LayerUnit, option: LayerOption, device: Device | None = None
    ) -> Claim:
        if device == "cuda":
            return Claim.refused("it is driven on the CPU only here", "use --device cpu")
        if option.format is Format.DENSE:
            return Claim(holds=True, evidence=self.evidence)
        if option.format is not Format.GRID:
            return Claim.refused(
                f"{option.format.value} has no type of blocks in llama.cpp with the same numbers",
                "use rtn, gptq or awq",
            )
        if option.scale_dtype not in {"BF16", "F16"}:
            return Claim.refused(
                f"scales in {option.scale_dtype} are rounded by its half-precision scales",
                "begin with cast, so that the model is in 16 bits",
            )
        if block_type(option) is None:
            low, high = integer_range(option.bits, symmetric=option.symmetric)
            return Claim.refused(
                f"{option.bits} bits asymmetric are integers from {low} to {high}, and its largest "
                "blocks hold -128 to 127"
            )
        return self._blocks(spec, unit, option)

    def _blocks(self, spec: ModelSpec, unit: LayerUnit, option: LayerOption) -> Claim:
        for name in unit.layers:
            shape = layer_shape(spec, name)
            if shape is None:
                continue
            group = option.group_size if option.group_size > 0 else shape[1]
            if group % BLOCK or shape[1] % BLOCK:
                return Claim.refused(
                    f"groups of {group} are not made of its blocks of {BLOCK}",
                    f"use a group_size that is a multiple of {BLOCK}",
                )
        return Claim(holds=True, evidence=self.evidence)

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

    def weights_bytes(self, spec: ModelSpec) -> int:
        packed = tuple(f"{name}.weight_" for name in spec.options)
        found = sum(
            tensor_bytes(dense_type(t.name, t.dtype, t.shape), t.shape)
            for t in spec.tensors
            if not t.name.startswith(packed)
        )
        shapes = ((option, layer_shape(spec, name)) for name, option in spec.options.items())
        return found + sum(self.option_bytes(o, s) for o, s in shapes if s is not None)

    def export(self, artifact: Path, out: Path) -> Package:
        from paredown.runtimes.llama_cpp.export import write_gguf

        self.require()
        require_read(self, infer_spec(artifact), what=str(artifact))
        with new_folder(out) as partial:
            notes = write_gguf(artifact, partial / FILE)
            if notes:
                write_json(partial / NOTES, {"notes": notes})
        return self.package(out)

    def package(self, folder: Path) -> Package:
        nbytes = _file(folder).stat().st_size
        file = folder / NOTES
        notes = tuple(read_object(file)["notes"]) if file.exists() else ()
        return Package(runtime=self.name, folder=folder, nbytes=nbytes, notes=notes)

    def stored_kinds(self, package: Package) -> dict[str, int]:
        from paredown.runtimes.llama_cpp.contents import bytes_by_kind

        return bytes_by_kind(_file(package.folder))

    def open(self, folder: Path, *, device: Device, trust_remote_code: bool = False) -> Session:
        from paredown.runtimes.llama_cpp.session import LlamaSession

        self.require()
        return LlamaSession(_file(folder), device=device)

    def server(
        self, package: Package, *, host: str, port: int, serving: Serving = _USUAL
    ) -> tuple[str, ...]:
        folder = _file(package.folder).parent
        options = {
            "host": host, "port": port, "name": serving.name, "context": serving.context,
            "slots": serving.slots, "threads": serving.threads, "cache": serving.cache,
        }  # fmt: skip
        given = ((f"--{k}", str(v)) for k, v in options.items() if v is not None)
        # As a file, not as a module: the very process that runs where there is no paredown.
        return sys.executable, str(_SERVER), str(folder), *(word for pair in given for word in pair)

    def server_script(self) -> Path:
        return _SERVER

    def _whole(self, spec: ModelSpec) -> Claim:
        refused = why_not_held(spec)
        if refused is not None:
            return Claim.refused(*refused)
        return Claim(holds=True, evidence=self.evidence)


def _file(folder: Path) -> Path:
    file = folder / FILE
    if not file.is_file():
        raise ModelError(f"{folder}: there is no {FILE}; it is no package of llama.cpp")
    return file
