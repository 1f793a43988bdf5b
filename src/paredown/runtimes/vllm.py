"""The runtime `vllm`: what its reader documents (release 0.32). Nothing is run in it here."""

from __future__ import annotations

from typing import final

from paredown.runtimes.base import Claim, Needs, Runtime
from paredown.spec.embeddings import packable_embeddings
from paredown.spec.layers import Format, LayerOption, LayerUnit
from paredown.spec.model import ModelSpec
from paredown.spec.structure import by_input, is_expert, uses_conv1d
from paredown.spec.target import Device

_GROUPS = (32, 64, 128, -1)
"""Groups that the Marlin kernels take; 16 is left to kernels that few builds have."""
_GRIDS: dict[tuple[int, bool], tuple[Device, ...]] = {
    (4, True): ("cuda", "cpu"),
    (4, False): ("cuda", "cpu"),
    (8, True): ("cuda",),
}
"""(bits, symmetric) that a fast kernel of every supported GPU computes -> where they run.

Left out on purpose: asymmetric 8 bits (Machete, on Hopper alone), 3, 5 and 6 bits (the Humming
kernels alone), and grids that no kernel takes. On CPUs only 4 bits are read.
"""
_BYTES: dict[Format, tuple[Device, ...]] = {Format.INT8: ("cuda", "cpu"), Format.FP8: ("cuda",)}


@final
class Vllm(Runtime):
    """Claims about vLLM, from the documentation of its compressed-tensors reader."""

    name = "vllm"
    summary = "vLLM, from its documented reader; not run here"
    source = (
        "vLLM 0.32, quantization/compressed-tensors: supported schemes and the kernels behind them "
        "(Marlin: 4 and 8 bits symmetric, 4 bits asymmetric, groups of 32, 64, 128 or a row; "
        "Machete: Hopper; CPUs: 4 bits)"
    )
    needs = Needs(module="vllm")

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
    """Whether a kernel computes this grid, on every GPU that vLLM supports or on a CPU."""
    said = f"{option.bits} bits {'symmetric' if option.symmetric else 'asymmetric'}"
    where = _GRIDS.get((option.bits, option.symmetric), ())
    if not where:
        return Claim.refused(f"no kernel of every supported GPU computes {said}")
    if device is not None and device not in where:
        return Claim.refused(f"{said} is not read on {device}")
    if option.group_size not in _GROUPS:
        return Claim.refused(
            f"groups of {option.group_size}: its kernels take 32, 64, 128 or a row"
        )
    return Claim(holds=True)
