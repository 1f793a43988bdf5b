"""The runtime `vllm`: what its reader documents (release 0.32). Nothing is run in it here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from paredown.runtimes.base import Claim, Needs, Runtime
from paredown.spec.embeddings import packable_embeddings
from paredown.spec.layers import Format, LayerOption, LayerUnit
from paredown.spec.model import ModelSpec
from paredown.spec.structure import by_input, is_expert, uses_conv1d
from paredown.spec.target import Device

VERSION = "0.32"
Generation = Literal["Ampere", "Ada", "Hopper", "Blackwell", "cpu"]
GPUS: tuple[Generation, ...] = ("Ampere", "Ada", "Hopper", "Blackwell")
"""Generations on which its packed kernels run; an artifact does not know which it will meet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """Packed products that vLLM computes: which grids, and where."""

    name: str
    bits: tuple[int, ...]
    symmetric: tuple[bool, ...]
    groups: tuple[int, ...]
    """Inputs that share a scale; -1: a row."""
    generations: tuple[Generation, ...]
    source: str
    """Where that is documented, as of `VERSION`."""

    def computes(self, option: LayerOption) -> bool:
        """Whether it computes this grid, wherever it runs."""
        is_known = option.bits in self.bits and option.symmetric in self.symmetric
        return is_known and option.group_size in self.groups


_USUAL = (32, 64, 128, -1)
KERNELS = (
    Kernel(
        name="Marlin", bits=(4, 8), symmetric=(True,), groups=_USUAL, generations=GPUS,
        source="kernels/mixed_precision/marlin.py: uint4b8, uint8b128",
    ),
    Kernel(
        name="Marlin", bits=(4,), symmetric=(False,), groups=_USUAL, generations=GPUS,
        source="kernels/mixed_precision/marlin.py: uint4 with zero-points",
    ),
    Kernel(
        name="Machete", bits=(8,), symmetric=(False,), groups=(128, -1), generations=("Hopper",),
        source="quantization/utils/machete_utils.py: uint8 with zero-points",
    ),
    Kernel(
        name="Humming", bits=(3, 5, 6), symmetric=(True,), groups=(16, *_USUAL), generations=(),
        source="kernels of few builds, where other bits and groups of 16 are said to run",
    ),
    Kernel(
        name="the CPU kernel", bits=(4,), symmetric=(True, False), groups=_USUAL,
        generations=("cpu",),
        source="served here: 4 bits; inputs become 8-bit numbers unless VLLM_CPU_INT4_W4A8=0",
    ),
)  # fmt: skip
"""All that are known, fast on the generations they name; on others the reader refuses the folder
or takes a slower way. What is not fast on every GPU is not offered to a search."""
_BYTES: dict[Format, tuple[Device, ...]] = {Format.INT8: ("cuda", "cpu"), Format.FP8: ("cuda",)}


@final
class Vllm(Runtime):
    """Claims about vLLM, from the documentation of its compressed-tensors reader."""

    name = "vllm"
    summary = "vLLM, from its documented reader; not run here"
    source = (
        f"vLLM {VERSION}, quantization/compressed-tensors and the kernels behind it: Marlin (4 and "
        "8 bits symmetric, 4 asymmetric; Ampere to Blackwell), Machete (8 asymmetric; Hopper), the "
        "CPU kernel (4 bits, whose inputs become 8-bit numbers unless VLLM_CPU_INT4_W4A8=0)"
    )
    needs = Needs(module="vllm")
    by_hand = (
        "it reads an artifact's own folder: `paredown compress --runtime vllm -o DIR`, then `vllm "
        "serve DIR` in an environment of its own (docs/runtimes.md), and `paredown check` and "
        "`paredown bench` with its address"
    )

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
