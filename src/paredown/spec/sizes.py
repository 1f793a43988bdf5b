"""Sizes derived from a spec: files, serving and quantizing memory. Exact where only counts enter.

"Derived" means computed from exact counts by the formulas below; what a process really takes is
measured by `paredown evaluate`.
"""

from __future__ import annotations

from paredown.spec.cache import find_caches
from paredown.spec.model import ModelSpec
from paredown.spec.structure import Block, fused_experts, input_name, matrix_shape
from paredown.spec.weights import DEFAULT_GROUP_SIZE, Precision, pieces_at


def bytes_at(spec: ModelSpec, precision: Precision, group_size: int = DEFAULT_GROUP_SIZE) -> int:
    """Bytes of the weights at a precision, on disk and in memory alike (packed stays packed).

    The sum over `spec.weights.pieces_at`, which has the formulas.

    Args:
        spec: of an unquantized model, for integers and fp8.
        precision: of the weights.
        group_size: input features per scale; -1 for one scale per row.

    Raises:
        ConfigError: integers or fp8 of a model that is quantized already.
    """
    return sum(piece.nbytes for piece in pieces_at(spec, precision, group_size))


def kv_bytes_per_token(spec: ModelSpec, dtype_bytes: int = 2) -> int | None:
    """Bytes by which the cache grows with one more token while every layer keeps everything.

    `2 * kv_heads * head_dim * dtype_bytes` of a layer with grouped queries, the compressed vector
    of one with latent attention, nothing of one that keeps a state. An upper bound where some
    layers attend to a sliding window only. None where the spec does not tell; `spec.cache` says
    why, and tells engines apart.
    """
    found = find_caches(spec)
    if found.unknown:
        return None
    return dtype_bytes * sum(group.layers * group.per_token for group in found.layers)


def memory_to_serve(
    spec: ModelSpec,
    precision: Precision,
    context: int,
    batch: int = 1,
    *,
    group_size: int = DEFAULT_GROUP_SIZE,
) -> int | None:
    """Weights plus the 16-bit cache of `batch` sequences of `context` tokens.

    `bytes_at(precision) + batch * cache`, sliding layers at their window. The runtime's own memory
    is not in it (`hardware.memory` has it all). None when the cache cannot be derived.
    """
    found = find_caches(spec)
    if found.unknown:
        return None
    return bytes_at(spec, precision, group_size) + round(batch * found.nbytes(context))


def memory_to_quantize(spec: ModelSpec, calibration_tokens: int) -> int | None:
    """Memory to quantize block by block with Hessians (GPTQ), weights of one block at a time.

    The largest block in float32, `4 * parameters of the block`; its Hessians,
    `4 * width**2` for each distinct input; the activations of the calibration set before and
    after the block, `2 * 2 * tokens * hidden_size`; the embedding, 2 bytes per parameter.
    None when the model has no blocks that can be told from its names.
    """
    blocks = spec.structure.blocks
    if not blocks or spec.hidden_size is None:
        return None
    activations = 2 * 2 * calibration_tokens * spec.hidden_size
    embedding = 2 * (spec.vocabulary or 0) * spec.hidden_size
    return max(_block_bytes(spec, block) for block in blocks) + activations + embedding


def _block_bytes(spec: ModelSpec, block: Block) -> int:
    """A block in float32 with the Hessians of its distinct inputs."""
    weights = sum(t.numel for t in spec.tensors if t.name.startswith(block.prefix + "."))
    widths = {input_name(n): matrix_shape(spec, n)[1] for n in block.linears}
    return 4 * (weights + sum(width**2 for width in widths.values()) + _fused_hessians(spec, block))


def _fused_hessians(spec: ModelSpec, block: Block) -> int:
    """Numbers in the Hessians of experts that one tensor holds: one Hessian per expert."""
    names = (n for n in fused_experts(spec) if n.startswith(block.prefix + "."))
    return sum(spec.by_name[n].shape[0] * spec.by_name[n].shape[2] ** 2 for n in names)
