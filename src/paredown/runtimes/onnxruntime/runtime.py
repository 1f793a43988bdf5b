"""The runtime `onnxruntime`: `MatMulNBits` with an artifact's own codes, opened by GenAI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from paredown.runtimes.base import Needs, Package, Serving
from paredown.runtimes.files import FileEngine, refused_graph
from paredown.runtimes.onnxruntime.formats import block_size, matrix_bytes
from paredown.runtimes.served import MODULES, command, files
from paredown.spec.layers import LayerOption
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.target import Device

if TYPE_CHECKING:
    from paredown.runtimes.session import Session

FILE, DATA = "model.onnx", "model.onnx.data"
"""Graph and weights of a package."""
FAMILIES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "gemma": "GemmaForCausalLM", "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM", "phi3": "Phi3ForCausalLM",
}  # fmt: skip
"""Families whose graphs were seen to compute what torch computes -> the builder's name of them."""

_USUAL = Serving()


@final
class OnnxRuntime(FileEngine):
    """ONNX Runtime with its library for generation (GenAI), on the CPU."""

    name = "onnxruntime"
    summary = "ONNX (MatMulNBits) with the artifact's own codes, in the own process of GenAI"
    source = (
        "MatMulNBits and GatherBlockQuantized of ONNX Runtime, graphs by the model builder of "
        "GenAI; every file is read back and compared number by number as it is written"
    )
    needs = Needs(module="onnxruntime_genai", extra="onnx", server=MODULES, devices=("cpu",))
    files: ClassVar[tuple[str, ...]] = (FILE, DATA)
    blocks: ClassVar[str] = "its blocks of 16 to 256"
    multiple: ClassVar[int] = 16
    # Inputs of each product are rounded to 8 bits per block (accuracy level 4): 0.008 with
    # SmolLM2-135M at 4 bits, 0.046 at 3.2 bits on average. A wrong order or scale makes 1 and more.
    kl_bound: ClassVar[float] = 0.1
    caches: ClassVar[tuple[str, ...]] = ("f32",)

    def option_bytes(self, option: LayerOption, shape: tuple[int, int]) -> int:
        return matrix_bytes(option, shape)

    def stored_kinds(self, package: Package) -> dict[str, int]:
        from paredown.runtimes.onnxruntime.contents import bytes_by_kind

        return bytes_by_kind(package.folder / FILE)

    def open(self, folder: Path, *, device: Device, trust_remote_code: bool = False) -> Session:
        from paredown.runtimes.onnxruntime.session import OnnxSession

        self.require()
        return OnnxSession(self.package(folder), device=device)

    def server(
        self, package: Package, *, host: str, port: int, serving: Serving = _USUAL
    ) -> tuple[str, ...]:
        self.require_server(serving.cache)
        module = "paredown.runtimes.onnxruntime.server"
        return command(module, package, host=host, port=port, serving=serving)

    def server_files(self) -> Mapping[str, Path]:
        return files("onnxruntime", "loaded")

    def _divides(self, option: LayerOption, width: int) -> bool:
        return block_size(option, width) is not None

    def _refused_model(self, spec: ModelSpec) -> tuple[str, str] | None:
        return refused_graph(spec, FAMILIES, "its builder does not know")

    def _dense_bytes(self, tensor: TensorInfo) -> int:
        return 4 * tensor.numel  # as its kernels on processors compute

    def _write(self, artifact: Path, folder: Path) -> Sequence[str]:
        from paredown.runtimes.onnxruntime.export import write_onnx

        return write_onnx(artifact, folder)
