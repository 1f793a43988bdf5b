"""Experts that files keep in one tensor per block, seen one by one. No torch.

Every method here works on one matrix per expert and projection: each has its own codes, masks and
second moments. So where a file holds (experts, rows, columns), its slices are listed in its place,
under the names that other families give to experts; reading cuts them out, writing joins them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from paredown.spec.model import TensorInfo, tensor_info

_LINEAR = re.compile(r"^(?P<stack>.*block_sparse_moe)\.(?P<kind>input|output)_linear\.weight$")
_FUSED = re.compile(r"^(?P<stack>.*)\.experts\.(?P<kind>gate_up|down)_proj(?P<bias>_bias)?$")
_ROLES = {
    "input": ("gate_proj", "up_proj"), "output": ("down_proj",),
    "gate_up": ("gate_proj", "up_proj"), "down": ("down_proj",),
}  # fmt: skip


@dataclass(frozen=True)
class _Layout:
    """How a family stores the matrices of an expert."""

    transposed: bool = False
    """As (inputs, outputs)."""
    interleaved: bool = False
    """Rows of gate and up in turns, in place of one after the other."""


_LAYOUTS = {
    "granitemoe": _Layout(), "granitemoeshared": _Layout(), "granitemoehybrid": _Layout(),
    "gpt_oss": _Layout(transposed=True, interleaved=True), "llama4_text": _Layout(transposed=True),
}  # fmt: skip
"""`model_type` of the language model -> its layout; it cannot be read off shapes, because hidden
size and expert width may be equal."""


@dataclass(frozen=True)
class Slice:
    """One expert's part of a stored tensor."""

    stored: str
    """Name of the tensor that holds it."""
    expert: int
    part: int
    """0 for the gate where gate and up share a tensor, 1 for up; 0 for all else."""
    parts: int
    transposed: bool
    interleaved: bool


def find_slices(
    text_type: str, stored: Iterable[TensorInfo]
) -> dict[str, tuple[Slice, TensorInfo]]:
    """The slices of all fused tensors of a language model of this type, by name."""
    layout = _LAYOUTS.get(text_type)
    if layout is None:
        return {}
    return {info.name: (cut, info) for tensor in stored for cut, info in _cuts(tensor, layout)}


def unfused(text_type: str, stored: Iterable[TensorInfo]) -> tuple[TensorInfo, ...]:
    """The tensors of a file with fused ones replaced by their slices."""
    every = tuple(stored)
    slices = find_slices(text_type, every)
    fused = {cut.stored for cut, _ in slices.values()}
    return (*(t for t in every if t.name not in fused), *(info for _, info in slices.values()))


def _cuts(tensor: TensorInfo, layout: _Layout) -> Iterator[tuple[Slice, TensorInfo]]:
    match = _LINEAR.match(tensor.name) or _FUSED.match(tensor.name)
    if match is None or not 2 <= len(tensor.shape) <= 3:
        return
    is_bias = bool(match.groupdict().get("bias"))
    if is_bias != (len(tensor.shape) == 2):
        return  # quantized by other means, or an expert of its own
    experts, *rest = tensor.shape
    transposed = layout.transposed and not is_bias
    rows, *columns = rest[::-1] if transposed else rest
    roles = _ROLES[match["kind"]]
    for expert in range(experts):
        for part, role in enumerate(roles):
            leaf = "bias" if is_bias else "weight"
            name = f"{match['stack']}.experts.{expert}.{role}.{leaf}"
            interleaved = layout.interleaved and len(roles) > 1
            cut = Slice(tensor.name, expert, part, len(roles), transposed, interleaved)
            yield cut, tensor_info(name, tensor.dtype, (rows // len(roles), *columns))


def is_sliced(name: str, text_type: str) -> bool:
    """Whether a module of this name may be a slice: stored alone, only paredown loads it."""
    return text_type in _LAYOUTS and re.search(r"\.experts\.\d+\.\w+_proj$", name) is not None
