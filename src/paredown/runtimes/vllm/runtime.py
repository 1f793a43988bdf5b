"""The runtime `vllm`: what its reader documents, and models opened in it where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from paredown.errors import ConfigError
from paredown.runtimes.base import Claim, Engine, Needs, Package, Serving, folder_package
from paredown.runtimes.vllm import environment
from paredown.runtimes.vllm.kernels import GPUS, KERNELS, VERSION, Kernel, processor_packs
from paredown.spec.embeddings import packable_embeddings
from paredown.spec.infer import infer_spec
from paredown.spec.layers import Format, LayerOption, LayerUnit
from paredown.spec.model import ModelSpec
from paredown.spec.structure import by_input, is_expert, uses_conv1d
from paredown.spec.target import Device

if TYPE_CHECKING:
    from paredown.runtimes.session import Session

_BYTES: dict[Format, tuple[Device, ...]] = {Format.INT8: ("cuda", "cpu"), Format.FP8: ("cuda",)}


_USUAL = Serving()


@final
class Vllm(Engine):
    """vLLM, which reads an artifact's own folder, in a Python of its own.

    Claims are those of the documentation of its compressed-tensors reader; what is opened in it is
    checked against the artifact like everything else.
    """

    name = "vllm"
    summary = "vLLM on the artifact's own folder, in an environment and a process of its own"
    source = (
        f"vLLM {VERSION}, quantization/compressed-tensors and the kernels behind it: Marlin (4 and "
        "8 bits symmetric, 4 asymmetric; Ampere to Blackwell), Machete (8 asymmetric; Hopper), the "
        "CPU kernel (4 bits, whose inputs become 8-bit numbers unless VLLM_CPU_INT4_W4A8=0)"
    )
    needs = Needs(probe=environment.missing)
    # It computes in bfloat16, logits included: 0.002 with SmolLM2-135M, as in torch. Inputs that
    # are rounded to 8 bits fall on other codes by that: 0.058, where torch's bfloat16 makes 0.032.
    kl_bound: ClassVar[float] = 0.15
    caches: ClassVar[tuple[str, ...]] = ("auto",)

    def holds(
        self, spec: ModelSpec, unit: LayerUnit, option: LayerOption, device: Device | None = None
    ) -> Claim:
        if option.format is Format.DENSE:
            return Claim(holds=True)
        if any(name in unit.layers for name in packable_embeddings(spec)):
            return Claim.refused(
                "packed embeddings are written in a format that it does not read",
                "leave embedding_bits out",
            )
        if uses_conv1d(spec):
            return Claim.refused("its reader knows no packed Conv1D layers")
        if option.format is Format.GRID:
            return _grid(option, device)
        if device in _BYTES.get(option.format, ()) or (device is None and option.format in _BYTES):
            return Claim(holds=True)
        where = "" if device is None else f" on {device}"
        return Claim.refused(
            f"{option.format.value} is not among the formats that are known to load{where}",
            "use rtn, gptq or awq with 4 or 8 bits",
        )

    def joins(self, spec: ModelSpec) -> tuple[LayerUnit, ...]:
        """q, k and v; gate and up; and all experts of a block."""
        units = super().joins(spec)
        names = [unit.layers[0] for unit in units]
        experts: dict[str, list[str]] = {}
        for name in filter(is_expert, names):
            experts.setdefault(name[: name.index("experts.")], []).append(name)
        rest = by_input(name for name in names if not is_expert(name))
        return tuple(LayerUnit(tuple(group)) for group in (*rest, *experts.values()))

    def export(self, artifact: Path, out: Path) -> Package:
        return folder_package(self, artifact, infer_spec(artifact))

    def open(self, folder: Path, *, device: Device, trust_remote_code: bool = False) -> Session:
        from paredown.runtimes.vllm.session import VllmSession

        self.require()
        return VllmSession(folder, device=device, trust_remote_code=trust_remote_code)

    def server(
        self, package: Package, *, host: str, port: int, serving: Serving = _USUAL
    ) -> tuple[str, ...]:
        self.require_server(serving.cache)
        if serving.queue is not None:
            raise ConfigError(
                f"queue = {serving.queue}: vLLM lets all that come wait; leave it out"
            )
        return environment.require().server(package.folder, host=host, port=port, serving=serving)

    def _whole(self, spec: ModelSpec) -> Claim:
        if spec.uneven_mlps:
            return Claim.refused(
                "MLPs of unequal width, which its model classes cannot build",
                'use scope = "layer", or equal_widths = true',
            )
        if spec.adapter:
            return Claim.refused(
                "the adapter beside the packed weights is not loaded with the folder",
                "tune before the quantization, so that the adapter is merged",
            )
        known = {"compressed-tensors", None}
        if spec.quantization not in known and not spec.options:
            return Claim.refused(f"{spec.quantization} weights are not known to load")
        if spec.experts or spec.vision:
            what = "a mixture of experts" if spec.experts else "a model that sees images"
            return Claim(holds=True, evidence="untested", why=what)
        return Claim(holds=True)


def _grid(option: LayerOption, device: Device | None) -> Claim:
    """Whether kernels compute this grid on every GPU that vLLM supports, or on a CPU."""
    fitting = [kernel for kernel in KERNELS if kernel.computes(option)]
    found = {generation for kernel in fitting for generation in kernel.generations}
    if device == "cpu" and "cpu" in found:
        # Asked where it would be opened: what is made here may be served elsewhere.
        if not processor_packs() and environment.missing() is None:
            return Claim.refused(
                "its kernel for packed weights needs a processor with AVX-512, which this one has "
                "not",
                "use a GPU, 8-bit numbers (smoothquant), or another runtime",
            )
        return Claim(holds=True)
    if device != "cpu" and found >= set(GPUS):
        return Claim(holds=True)
    return Claim.refused(_why_not(option, device, fitting))


def _why_not(option: LayerOption, device: Device | None, fitting: list[Kernel]) -> str:
    said = f"{option.bits} bits {'symmetric' if option.symmetric else 'asymmetric'}"
    if device == "cpu":
        return (
            f"{said} in groups of {option.group_size} is not read on cpu: 4 bits are, in its groups"
        )
    partly = [kernel for kernel in fitting if "cpu" not in kernel.generations]
    if partly:
        names = " or ".join(
            f"{kernel.name} ({', '.join(kernel.generations) or 'in few builds'})"
            for kernel in partly
        )
        return f"{said} in groups of {option.group_size} are computed by {names} alone"
    known = (kernel for kernel in KERNELS if set(kernel.generations) == set(GPUS))
    pairs = {(bits, symmetric) for k in known for bits in k.bits for symmetric in k.symmetric}
    if (option.bits, option.symmetric) in pairs:
        return f"groups of {option.group_size}: its kernels take 32, 64, 128 or a row"
    return f"no kernel of every supported GPU computes {said}"
