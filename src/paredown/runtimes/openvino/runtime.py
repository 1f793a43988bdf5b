"""The runtime `openvino`: an artifact's own codes as constants of a stateful model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from paredown.errors import ModelError
from paredown.runtimes.base import Claim, Engine, Needs, Package, require_read
from paredown.runtimes.openvino.formats import DENSE_BYTES, group_size, matrix_bytes
from paredown.spec.embeddings import copy_of_tied
from paredown.spec.infer import infer_spec
from paredown.spec.layers import Format, LayerOption, LayerUnit
from paredown.spec.model import ModelSpec
from paredown.spec.reading import read_object
from paredown.spec.result import Evidence
from paredown.spec.structure import layer_shape
from paredown.spec.target import Device
from paredown.store.atomic import new_folder, write_json

if TYPE_CHECKING:
    from paredown.runtimes.session import Session

FILE, DATA = "openvino_model.xml", "openvino_model.bin"
"""Graph and weights of a package, as OpenVINO's libraries for generation look for them."""
SETTINGS, NOTES = "settings.json", "export.json"
HEADS_NORMALIZED = ("qwen3",)
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose graphs were seen to compute what torch computes."""


@final
class OpenVino(Engine):
    """OpenVINO on the CPU."""

    name = "openvino"
    summary = "OpenVINO models with the artifact's own codes, in a process of their own"
    source = (
        "products of every kind tried beside numpy, release 2026.4; every file is read back and "
        "compared number by number as it is written, and each kind of product in it tried"
    )
    needs = Needs(module="openvino", extra="openvino", devices=("cpu",))
    evidence: ClassVar[Evidence] = "checked"
    own_files: ClassVar[bool] = True
    kl_bound: ClassVar[float] = 0.02

    def holds(
        self, spec: ModelSpec, unit: LayerUnit, option: LayerOption, device: Device | None = None
    ) -> Claim:
        if device == "cuda":
            return Claim.refused("it is driven on the CPU only here", "use --device cpu")
        if option.format is Format.DENSE:
            return Claim(holds=True, evidence=self.evidence)
        if option.format is not Format.GRID:
            return Claim.refused(
                f"{option.format.value} is none of its formats with the same numbers",
                "use rtn, gptq or awq",
            )
        for name in unit.layers:
            shape = layer_shape(spec, name)
            if shape is not None and group_size(option, shape[1]) is None:
                group = option.group_size if option.group_size > 0 else shape[1]
                return Claim.refused(
                    f"groups of {group} are not made of those that its kernels compute rightly",
                    "use a group_size that is a multiple of 16",
                )
        return Claim(holds=True, evidence=self.evidence)

    def option_bytes(self, option: LayerOption, shape: tuple[int, int]) -> int:
        return matrix_bytes(option, shape)

    def weights_bytes(self, spec: ModelSpec) -> int:
        copy = copy_of_tied(spec)
        packed = tuple(f"{name}.weight_" for name in spec.options)
        dense = (
            t for t in spec.tensors if not t.name.startswith(packed) and t.name != f"{copy}.weight"
        )
        found = sum(
            t.numel * (4 if len(t.shape) == 1 else DENSE_BYTES.get(t.dtype, 4)) for t in dense
        )
        shapes = ((option, layer_shape(spec, name)) for name, option in spec.options.items())
        return found + sum(matrix_bytes(option, shape) for option, shape in shapes if shape)

    def export(self, artifact: Path, out: Path) -> Package:
        from paredown.runtimes.openvino.export import write_openvino

        self.require()
        require_read(self, infer_spec(artifact), what=str(artifact))
        with new_folder(out) as partial:
            write_json(partial / NOTES, {"notes": write_openvino(artifact, partial)})
        return self.package(out)

    def package(self, folder: Path) -> Package:
        files = [folder / FILE, folder / DATA]
        if missing := [file.name for file in files if not file.is_file()]:
            raise ModelError(f"{folder}: there is no {missing[0]}; it is no package of {self.name}")
        notes = folder / NOTES
        return Package(
            runtime=self.name,
            folder=folder,
            nbytes=sum(file.stat().st_size for file in files),
            notes=tuple(read_object(notes)["notes"]) if notes.exists() else (),
        )

    def stored_kinds(self, package: Package) -> dict[str, int]:
        from paredown.runtimes.openvino.contents import bytes_by_kind

        return bytes_by_kind(package.folder / FILE)

    def open(self, folder: Path, *, device: Device, trust_remote_code: bool = False) -> Session:
        from paredown.runtimes.openvino.session import OpenVinoSession

        self.require()
        return OpenVinoSession(self.package(folder), device=device)

    def _whole(self, spec: ModelSpec) -> Claim:
        refused = _why_not_held(spec)
        return Claim.refused(*refused) if refused else Claim(holds=True, evidence=self.evidence)


def _why_not_held(spec: ModelSpec) -> tuple[str, str] | None:
    """What of a model it does not load, and what would do; None if it loads it."""
    if spec.model_type not in FAMILIES:
        return f"graphs of the family {spec.model_type} are not drawn here", ""
    if spec.vision is not None:
        return "a model that sees images is not drawn here", ""
    if spec.uneven_mlps:
        return (
            "MLPs of unequal width, which its libraries do not expect",
            'use scope = "layer", or equal_widths = true',
        )
    if spec.adapter:
        return (
            "the adapter beside the packed weights is not written into the graph",
            "tune before the quantization, so that the adapter is merged",
        )
    return None
