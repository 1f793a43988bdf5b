"""The runtime `openvino`: an artifact's own codes as constants of a stateful model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from paredown.runtimes.base import Needs, Package, Serving
from paredown.runtimes.files import FileEngine, refused_graph
from paredown.runtimes.openvino.formats import DENSE_BYTES, group_size, matrix_bytes
from paredown.runtimes.served import MODULES, command, files
from paredown.spec.layers import LayerOption
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.target import Device

if TYPE_CHECKING:
    from paredown.runtimes.session import Session

FILE, DATA = "openvino_model.xml", "openvino_model.bin"
"""Graph and weights of a package, as OpenVINO's libraries for generation look for them."""
SETTINGS = "settings.json"
HEADS_NORMALIZED = ("qwen3",)
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose graphs were seen to compute what torch computes."""

_USUAL = Serving()


@final
class OpenVino(FileEngine):
    """OpenVINO on the CPU."""

    name = "openvino"
    summary = "OpenVINO models with the artifact's own codes, in a process of their own"
    source = (
        "products of every kind tried beside numpy, release 2026.4; every file is read back and "
        "compared number by number as it is written, and each kind of product in it tried"
    )
    needs = Needs(module="openvino", extra="openvino", server=MODULES, devices=("cpu",))
    files: ClassVar[tuple[str, ...]] = (FILE, DATA)
    blocks: ClassVar[str] = "those that its kernels compute rightly"
    multiple: ClassVar[int] = 16
    kl_bound: ClassVar[float] = 0.02
    caches: ClassVar[tuple[str, ...]] = ("f16",)

    def option_bytes(self, option: LayerOption, shape: tuple[int, int]) -> int:
        return matrix_bytes(option, shape)

    def stored_kinds(self, package: Package) -> dict[str, int]:
        from paredown.runtimes.openvino.contents import bytes_by_kind

        return bytes_by_kind(package.folder / FILE)

    def open(self, folder: Path, *, device: Device, trust_remote_code: bool = False) -> Session:
        from paredown.runtimes.openvino.session import OpenVinoSession

        self.require()
        return OpenVinoSession(self.package(folder), device=device)

    def server(
        self, package: Package, *, host: str, port: int, serving: Serving = _USUAL
    ) -> tuple[str, ...]:
        self.require_server(serving.cache)
        module = "paredown.runtimes.openvino.server"
        return command(module, package, host=host, port=port, serving=serving)

    def server_files(self) -> Mapping[str, Path]:
        return files("openvino", "loaded", "settings")

    def _divides(self, option: LayerOption, width: int) -> bool:
        return group_size(option, width) is not None

    def _refused_model(self, spec: ModelSpec) -> tuple[str, str] | None:
        return refused_graph(spec, FAMILIES, "its libraries do not expect")

    def _dense_bytes(self, tensor: TensorInfo) -> int:
        known = 4 if len(tensor.shape) == 1 else DENSE_BYTES.get(tensor.dtype, 4)
        return tensor.numel * known

    def _write(self, artifact: Path, folder: Path) -> Sequence[str]:
        from paredown.runtimes.openvino.export import write_openvino

        return write_openvino(artifact, folder)
