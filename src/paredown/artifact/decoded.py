"""Models that were published quantized, as bases: decoded once, tensor by tensor, and kept.

What comes out is what the published model computes with, in 16 bits; every loss is relative to it.
The files are kept in the cache by content, so that trials, proofs and packages start from one
folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.artifact.source import locate
from paredown.errors import ModelError
from paredown.spec.headers import read_config
from paredown.spec.progress import Progress, unheard

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint

_KIND = "decoded"
_STATEMENT = "paredown_decoded_from"
"""Key of the config under which a decoded model, and what is made of it, says so."""
_CODE = 1
"""Goes up when the same files are decoded to other numbers."""
_Part = tuple[str, tuple[str, ...], Callable[[], "Tensor"]]
"""Name of the decoded tensor, the stored ones that it is made of, and how."""


def base_folder(name: str, progress: Progress = unheard) -> Path:
    """The folder of a model as the base of compression: located, and decoded if it is packed.

    Raises:
        ModelError: no such model, or a format that is told and not understood here.
    """
    return decoded(locate(name, progress), progress)


def decoded(folder: Path, progress: Progress = unheard) -> Path:
    """A dense copy of a model folder in FP8, MXFP4, GPTQ or AWQ; other folders as they are."""
    method = _method(read_config(folder))
    if method not in _FORMATS:
        return folder
    from paredown.store.cache import Cache
    from paredown.store.content import code, model_hash

    key = {**code(_CODE), "model": model_hash(folder)}
    cache = Cache.default()
    kept = cache.get(_KIND, key, "")
    if kept is not None:
        return kept
    cache.folder.mkdir(parents=True, exist_ok=True)
    # In the cache's own file system, so that adopting it is a rename.
    with tempfile.TemporaryDirectory(prefix=".decoded-", dir=cache.folder) as scratch:
        out = Path(scratch) / "model"
        out.mkdir()
        _decode(folder, out, method, progress)
        return cache.adopt(_KIND, key, out)


def decoded_note(folder: Path) -> str:
    """What a user should know of a base that was decoded; empty for others."""
    method = read_config(folder).get(_STATEMENT)
    if method is None:
        return ""
    return (
        f"the model was given in {method}: it was decoded to 16 bits, which are the base; sizes "
        "and losses are relative to that"
    )


def _method(config: dict[str, Any]) -> str:
    told = config.get("quantization_config")
    return str(told.get("quant_method")) if isinstance(told, dict) else ""


def _decode(folder: Path, out: Path, method: str, progress: Progress) -> None:
    import torch

    from paredown.artifact.checkpoint import Checkpoint, CheckpointWriter

    source = Checkpoint(folder)
    settings = source.config["quantization_config"]
    parts = list(_FORMATS[method](source, settings))
    if not parts:
        raise ModelError(f"{folder}: the config tells of {method}, and no packed tensor is stored")
    used = {name for _, stored, _ in parts for name in stored}
    dtype = torch.float16 if source.config.get("torch_dtype") == "float16" else torch.bfloat16
    with CheckpointWriter(out, source) as writer:
        for done, (name, _, make) in enumerate(parts):
            writer.add(name, make().to(dtype))
            progress((done + 1) / len(parts), f"decoding {method}, {done + 1} of {len(parts)}")
        writer.copy_rest(without=used)
        del writer.config["quantization_config"]
        writer.config[_STATEMENT] = method


def _fp8(source: Checkpoint, settings: dict[str, Any]) -> Iterator[_Part]:
    from paredown.ops.foreign import fp8_weight

    size = settings.get("weight_block_size")
    if not (isinstance(size, list) and len(size) == 2):
        raise ModelError(f"{source.folder}: FP8 without a weight_block_size is not decoded")
    block = (int(size[0]), int(size[1]))
    for scale in source.names:
        if not scale.endswith(".weight_scale_inv"):
            continue
        name = scale.removesuffix("_scale_inv")

        def make(name: str = name, scale: str = scale) -> Tensor:
            return fp8_weight(source.read(name), source.read(scale), block)

        yield name, (name, scale), make


def _mxfp4(source: Checkpoint, settings: dict[str, Any]) -> Iterator[_Part]:
    from paredown.ops.foreign import mxfp4_weight

    for blocks in source.names:
        if not blocks.endswith("_blocks"):
            continue
        name = blocks.removesuffix("_blocks")
        scales = f"{name}_scales"

        def make(blocks: str = blocks, scales: str = scales) -> Tensor:
            # Packed as (experts, outputs, inputs); the family's own files have inputs first.
            rows = mxfp4_weight(source.read(blocks), source.read(scales))
            return rows.transpose(-1, -2).contiguous()

        yield name, (blocks, scales), make


def _gptq(source: Checkpoint, settings: dict[str, Any]) -> Iterator[_Part]:
    from paredown.ops.foreign import gptq_weight

    bits = settings.get("bits")
    if bits not in {2, 4, 8}:
        raise ModelError(f"{source.folder}: GPTQ of {bits} bits is not decoded; 2, 4 and 8 are")
    offset = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    for words in source.names:
        layer = words.removesuffix(".qweight")
        if layer == words:
            continue
        stored = tuple(f"{layer}.{leaf}" for leaf in ("qweight", "qzeros", "scales", "g_idx"))

        def make(stored: tuple[str, ...] = stored) -> Tensor:
            words, zeros, scales, groups = map(source.read, stored)
            return gptq_weight(words, zeros, scales, groups, bits, offset=offset)

        yield f"{layer}.weight", stored, make


def _awq(source: Checkpoint, settings: dict[str, Any]) -> Iterator[_Part]:
    from paredown.ops.foreign import awq_weight

    told = (settings.get("bits"), str(settings.get("version", "gemm")).lower())
    if told != (4, "gemm"):
        raise ModelError(f"{source.folder}: AWQ of 4 bits in the version gemm is decoded, no other")
    for words in source.names:
        layer = words.removesuffix(".qweight")
        if layer == words:
            continue
        stored = tuple(f"{layer}.{leaf}" for leaf in ("qweight", "qzeros", "scales"))

        def make(stored: tuple[str, ...] = stored) -> Tensor:
            return awq_weight(*map(source.read, stored))

        yield f"{layer}.weight", stored, make


_FORMATS: dict[str, Callable[[Checkpoint, dict[str, Any]], Iterator[_Part]]] = {
    "fp8": _fp8, "mxfp4": _mxfp4, "gptq": _gptq, "awq": _awq,
}  # fmt: skip
"""`quant_method` of a config -> the decoded tensors, in the order of the files."""
