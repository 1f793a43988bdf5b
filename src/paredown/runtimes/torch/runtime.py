"""The runtime `torch`: what `paredown.load` reads, packed weights staying packed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from paredown.runtimes.base import Claim, Engine, Needs, Package, folder_package
from paredown.spec.infer import infer_spec
from paredown.spec.layers import Format, LayerOption, LayerUnit
from paredown.spec.model import ModelSpec
from paredown.spec.result import Evidence
from paredown.spec.target import Device

if TYPE_CHECKING:
    from paredown.runtimes.session import Session


@final
class Torch(Engine):
    """Plain torch with packed layers of our own; it reads whatever the methods write."""

    name = "torch"
    summary = "paredown.load, weights stay packed"
    source = "every artifact is reloaded in it, in a fresh process, before it counts"
    needs = Needs(module="torch")
    evidence: ClassVar[Evidence] = "checked"

    def holds(
        self, spec: ModelSpec, unit: LayerUnit, option: LayerOption, device: Device | None = None
    ) -> Claim:
        match option.format:
            case Format.GRID if not 2 <= option.bits <= 8:
                return Claim.refused(f"its grids have 2 to 8 bits, not {option.bits}")
            case Format.GRID if 0 <= option.group_size < 16:
                return Claim.refused(
                    f"groups of {option.group_size} are too short; 16 are the least"
                )
            case _:
                return Claim(holds=True, evidence=self.evidence)

    def export(self, artifact: Path, out: Path) -> Package:
        return folder_package(self, artifact, infer_spec(artifact))

    def open(self, folder: Path, *, device: Device, trust_remote_code: bool = False) -> Session:
        from paredown.runtimes.torch.load import load
        from paredown.runtimes.torch.session import TorchSession

        model = load(folder, device=device, trust_remote_code=trust_remote_code)
        return TorchSession(
            model, device=device, folder=folder, trust_remote_code=trust_remote_code
        )

    def open_streamed(
        self, folder: Path, *, device: Device, trust_remote_code: bool = False
    ) -> Session | None:
        from paredown.runtimes.torch.streamed import StreamedSession

        return StreamedSession(folder, device=device, trust_remote_code=trust_remote_code)
