"""Engines on the CPU that read files of their own: how a package is written, found and refused."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from paredown.errors import ModelError
from paredown.runtimes.base import Claim, Engine, Package, require_read
from paredown.spec.embeddings import copy_of_tied
from paredown.spec.infer import infer_spec
from paredown.spec.layers import Format, LayerOption, LayerUnit
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.reading import read_object
from paredown.spec.result import Evidence
from paredown.spec.structure import layer_shape
from paredown.spec.target import Device
from paredown.store.atomic import new_folder, write_json

NOTES = "export.json"
"""What a user should know of how a package was written; absent where there is nothing."""


class FileEngine(Engine):
    """An engine with files of its own, driven on the CPU.

    Class attributes:
        files: that make a package, by name; their bytes are its size.
        blocks: of which groups are made in them, in words.
        multiple: of which a group size that would do is one.
        formats: of packed layers that its files hold.
    """

    evidence: ClassVar[Evidence] = "checked"
    own_files: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]]
    blocks: ClassVar[str]
    multiple: ClassVar[int]
    formats: ClassVar[frozenset[Format]] = frozenset({Format.GRID})

    def holds(
        self, spec: ModelSpec, unit: LayerUnit, option: LayerOption, device: Device | None = None
    ) -> Claim:
        if device == "cuda":
            return Claim.refused("it is driven on the CPU only here", "use --device cpu")
        if option.format is Format.DENSE:
            return Claim(holds=True, evidence=self.evidence)
        if option.format not in self.formats:
            return Claim.refused(
                f"{option.format.value} is none of its formats with the same numbers",
                'use rtn, gptq or awq with grid = "affine"',
            )
        refused = self._refused_grid(spec, unit, option)
        return Claim.refused(*refused) if refused else Claim(holds=True, evidence=self.evidence)

    def export(self, artifact: Path, out: Path) -> Package:
        self.require()
        require_read(self, infer_spec(artifact), what=str(artifact))
        with new_folder(out) as partial:
            if notes := self._write(artifact, partial):
                write_json(partial / NOTES, {"notes": list(notes)})
        return self.package(out)

    def package(self, folder: Path) -> Package:
        files = [folder / name for name in self.files]
        if missing := [file.name for file in files if not file.is_file()]:
            raise ModelError(f"{folder}: there is no {missing[0]}; it is no package of {self.name}")
        notes = folder / NOTES
        return Package(
            runtime=self.name,
            folder=folder,
            nbytes=sum(file.stat().st_size for file in files),
            notes=tuple(read_object(notes)["notes"]) if notes.exists() else (),
        )

    def weights_bytes(self, spec: ModelSpec) -> int:
        packed = tuple(f"{name}.weight_" for name in spec.options)
        dense = (t for t in self._stored(spec) if not t.name.startswith(packed))
        shapes = ((option, layer_shape(spec, name)) for name, option in spec.options.items())
        grids = sum(self.option_bytes(option, shape) for option, shape in shapes if shape)
        return grids + sum(self._dense_bytes(tensor) for tensor in dense)

    def _stored(self, spec: ModelSpec) -> Iterable[TensorInfo]:
        """The artifact's tensors that its files hold: here without a copy of a tied embedding."""
        copy = copy_of_tied(spec)
        return (tensor for tensor in spec.tensors if tensor.name != f"{copy}.weight")

    def _whole(self, spec: ModelSpec) -> Claim:
        refused = self._refused_model(spec)
        return Claim.refused(*refused) if refused else Claim(holds=True, evidence=self.evidence)

    def _refused_grid(
        self, spec: ModelSpec, unit: LayerUnit, option: LayerOption
    ) -> tuple[str, str] | None:
        """Why its files do not hold a grid for a unit, and what would do; None if they do."""
        for name in unit.layers:
            shape = layer_shape(spec, name)
            if shape is not None and not self._divides(option, shape[1]):
                group = option.group_size if option.group_size > 0 else shape[1]
                return (
                    f"groups of {group} are not made of {self.blocks}",
                    f"use a group_size that is a multiple of {self.multiple}",
                )
        return None

    @abstractmethod
    def _divides(self, option: LayerOption, width: int) -> bool:
        """Whether the groups of a layer of `width` inputs are made of the blocks of its files."""

    @abstractmethod
    def _refused_model(self, spec: ModelSpec) -> tuple[str, str] | None:
        """What of a model it does not load, and what would do; None if it loads it."""

    @abstractmethod
    def _dense_bytes(self, tensor: TensorInfo) -> int:
        """Bytes in its files of a tensor that is not packed."""

    @abstractmethod
    def _write(self, artifact: Path, folder: Path) -> Sequence[str]:
        """Write its files into a folder; what a user should know of them."""


def refused_graph(spec: ModelSpec, families: Iterable[str], unequal: str) -> tuple[str, str] | None:
    """Why a graph of a model is not written, and what would do; None if it is.

    Args:
        families: whose graphs were seen to compute what torch computes.
        unequal: who does not know MLPs of unequal width.
    """
    if spec.model_type not in families:
        return f"graphs of the family {spec.model_type} are not written here", ""
    if spec.vision is not None:
        return "a model that sees images is not written here", ""
    if spec.uneven_mlps:
        return (
            f"MLPs of unequal width, which {unequal}",
            'use scope = "layer", or equal_widths = true',
        )
    if spec.adapter:
        return (
            "the adapter beside the packed weights is not written into the graph",
            "tune before the quantization, so that the adapter is merged",
        )
    return None
