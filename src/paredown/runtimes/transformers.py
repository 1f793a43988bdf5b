"""The runtime `transformers`: plain transformers, which unpacks packed weights as it loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from paredown.runtimes.base import Claim, Engine, Needs, Package, folder_package
from paredown.spec.embeddings import packable_embeddings
from paredown.spec.experts import is_sliced
from paredown.spec.infer import infer_spec
from paredown.spec.layers import Format, LayerOption, LayerUnit
from paredown.spec.model import ModelSpec
from paredown.spec.result import Evidence
from paredown.spec.structure import is_expert, layer_shape, uses_conv1d
from paredown.spec.target import Device

if TYPE_CHECKING:
    from paredown.runtimes.session import Session

OWN = "paredown"
"""`ModelSpec.quantization` of the format that other loaders refuse."""
_READS_WEIGHTS = frozenset({"falcon", "gpt_bigcode", "mamba", "mamba2", "recurrent_gemma"})
"""`model_type`s whose modules take `layer.weight` itself, if only to ask for its dtype."""


@final
class Transformers(Engine):
    """Plain transformers, with compressed-tensors, bitsandbytes and peft where they are needed."""

    name = "transformers"
    summary = "plain transformers, weights unpacked"
    source = "every artifact that it should load is reloaded in it, in a fresh process"
    needs = Needs(module="transformers")
    evidence: ClassVar[Evidence] = "checked"

    def holds(
        self, spec: ModelSpec, unit: LayerUnit, option: LayerOption, device: Device | None = None
    ) -> Claim:
        yes = Claim(holds=True, evidence=self.evidence)
        if option.format is Format.SPARSE:
            return Claim.refused("it does not read sparse weights", 'use storage = "dense"')
        if option.format is Format.SUPERBLOCK:
            return Claim.refused(
                "two-level grids are read by llama.cpp alone", 'use grid = "affine"'
            )
        if option.format not in {Format.GRID, Format.INT8, Format.FP8}:
            return yes
        if uses_conv1d(spec):
            return Claim.refused("compressed-tensors knows no Conv1D layers", "use int8, or torch")
        if spec.text_type in _READS_WEIGHTS and option.format is Format.GRID:
            return Claim.refused(
                f"the code of {spec.text_type} reads matrices that a packed layer has not",
                "use torch (`paredown.load`)",
            )
        if any(is_sliced(name, spec.text_type) for name in unit.layers):
            return Claim.refused(
                "it looks for all experts of a block in one tensor", "use torch (`paredown.load`)"
            )
        if any(name in unit.layers for name in packable_embeddings(spec)):
            return Claim.refused("it does not read packed embeddings", "leave embedding_bits out")
        if any(map(is_expert, unit.layers)) and not option.symmetric:
            # Its loader unpacks all experts by one symmetric scheme, whatever the config says.
            return Claim.refused(
                "it unpacks experts on symmetric grids only", "use symmetric = true"
            )
        if any(_fills_one_word(spec, name, option) for name in unit.layers):
            return Claim.refused(
                "its loader does not unpack zero-points of so few rows that one word holds them",
                "use symmetric = true, or leave the layer out with `skip`",
            )
        return yes

    def joins(self, spec: ModelSpec) -> tuple[LayerUnit, ...]:
        """Each layer alone, but all experts of a model together: its loader takes one scheme."""
        units = super().joins(spec)
        experts = tuple(u.layers[0] for u in units if is_expert(u.layers[0]))
        if not experts:
            return units
        alone = tuple(unit for unit in units if not is_expert(unit.layers[0]))
        return (LayerUnit(experts), *alone)

    def reads(self, spec: ModelSpec, device: Device | None = None) -> Claim:
        claim = super().reads(spec, device)
        if claim.holds and spec.quantization == OWN:
            # The format says so itself: other loaders find no `quant_method` in it, and refuse.
            return Claim.refused("it is written in paredown's own format")
        return claim

    def export(self, artifact: Path, out: Path) -> Package:
        return folder_package(self, artifact, infer_spec(artifact))

    def open(self, folder: Path, *, device: Device, trust_remote_code: bool = False) -> Session:
        from paredown.runtimes.torch.load import load_dense
        from paredown.runtimes.torch.session import TorchSession

        model = load_dense(folder, device=device, trust_remote_code=trust_remote_code)
        return TorchSession(
            model, device=device, folder=folder, trust_remote_code=trust_remote_code
        )

    def _whole(self, spec: ModelSpec) -> Claim:
        if spec.uneven_mlps:
            return Claim.refused(
                "MLPs of unequal width, which transformers cannot build",
                'use scope = "layer", or equal_widths = true',
            )
        experts = any(map(is_expert, spec.options))
        if experts and len(set(spec.options.values())) > 1:
            # It may unpack experts by the scheme of another layer.
            return Claim.refused(
                "it unpacks experts by one scheme for the whole model, and there are several",
                "give all layers the same bits",
            )
        return Claim(holds=True, evidence=self.evidence)


def _fills_one_word(spec: ModelSpec, name: str, option: LayerOption) -> bool:
    """Whether the zero-points of a layer are a single row of 32-bit words.

    compressed-tensors turns them before it looks at their bytes; of one row with several groups
    PyTorch then says that it lies in memory as it should, and yet gives no view of bytes.
    """
    shape = layer_shape(spec, name)
    if option.format is not Format.GRID or option.symmetric or shape is None:
        return False
    rows, width = shape
    several = 0 < option.group_size < width
    return several and rows * option.bits <= 32
