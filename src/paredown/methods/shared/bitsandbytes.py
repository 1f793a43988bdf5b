"""What the methods have in common that bitsandbytes does: checks, quantizing, and writing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.errors import ConfigError, MethodError
from paredown.methods.base import Context
from paredown.methods.shared.groups import best_group_size
from paredown.runtimes.kernels import Kernel, KernelName, Shape, multiples, refusals
from paredown.spec.layers import LayerOption
from paredown.spec.model import ModelSpec, TensorInfo, tensor_info
from paredown.spec.packed import LLM_INT8, NF4
from paredown.spec.structure import matches, matrix_shape, select_linears, uncovered, uses_conv1d
from paredown.spec.target import Device
from paredown.spec.widths import unequal_widths

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint

BLOCK = 64
"""Weights that share one scale in NF4."""
NESTED_BLOCK = 256
"""NF4 scales that share one second scale."""
STATE_BYTES = 192
"""Length to which the text that describes an NF4 matrix is filled up with blanks. As bitsandbytes
writes it, its length depends on the digits of a number."""
MOST = 0.5
"""Share of the blocks' weights that may be in tensors that are no linears."""
_OWN_LINEARS = {"falcon"}
"""Model types whose layers are subclasses of nn.Linear; transformers hands bitsandbytes only
`type(module) is nn.Linear` and Conv1D."""
_MANY_AXES = {"minicpm3": "*.kv_b_proj"}
"""Model types -> layers that they hand inputs of four axes, which LLM.int8 takes for matrices."""
_STATE = "weight.quant_state.bitsandbytes__nf4"


def check_bitsandbytes(
    spec: ModelSpec, skip: tuple[str, ...], name: str, *, kernel: KernelName, device: Device
) -> None:
    """Refuse what bitsandbytes cannot quantize, or cannot compute with on this machine.

    Args:
        name: of the method, for messages.
        kernel: what it will compute with.

    Raises:
        ConfigError: experts, MLPs of unequal width, layers that bitsandbytes leaves alone, no layer
            is left, or a layer has a shape that the kernel refuses.
    """
    if widths := unequal_widths(spec):
        raise ConfigError(
            f"{name} quantizes by plain transformers, which cannot load MLPs of unequal width "
            f'({widths[0]} to {widths[-1]}); prune with scope = "layer", or use rtn or gptq'
        )
    if spec.experts:
        raise ConfigError(f"{spec.architecture}: {name} does not handle experts yet")
    if spec.model_type in _OWN_LINEARS:
        raise ConfigError(
            f"{spec.architecture}: its layers are of a subclass of nn.Linear, which bitsandbytes "
            f"leaves as they are; {name} would quantize nothing"
        )
    _require_most(spec, name)
    chosen = select_linears(spec, skip)
    if not chosen:
        raise ConfigError("there is no layer to quantize: `skip` leaves out all of them")
    if kernel == "int8":
        _require_matrices(spec, chosen, skip, name)
    _ask_kernel(spec, skip, name, Kernel(name=kernel, device=device, dtype=spec.dtype))


def _require_most(spec: ModelSpec, name: str) -> None:
    """Refuse models most of whose weights would stay as they are without a word."""
    share, largest = uncovered(spec)
    if largest is not None and share > MOST:
        raise ConfigError(
            f"{spec.architecture}: {share:.0%} of the weights of its blocks are in no layer that "
            f"{name} quantizes, such as {largest.name!r} of shape {largest.shape}"
        )


def _require_matrices(
    spec: ModelSpec, chosen: tuple[str, ...], skip: tuple[str, ...], name: str
) -> None:
    """Refuse layers whose inputs LLM.int8 misreads."""
    pattern = _MANY_AXES.get(spec.text_type)
    layer = next((n for n in chosen if pattern is not None and matches(n, pattern)), None)
    if layer is not None and pattern is not None:
        raise ConfigError(
            f"{name}: {spec.architecture} hands {layer} inputs of four axes, and bitsandbytes "
            f"computes with three at most; use skip={json.dumps([*skip, pattern])} or "
            f"{_instead(spec, name)}"
        )


def _ask_kernel(spec: ModelSpec, skip: tuple[str, ...], name: str, kernel: Kernel) -> None:
    shapes = {layer: matrix_shape(spec, layer) for layer in select_linears(spec, skip)}
    refused = refusals(kernel, set(shapes.values()))
    layers = {layer: shape for layer, shape in shapes.items() if shape in refused}
    if not layers:
        return
    whose = "this processor's" if kernel.device == "cpu" else "this GPU's"
    layer, shape = next(iter(layers.items()))
    found = _broken_rule(kernel, layer, shape) or (
        f"does not compute {layer}, a matrix of {shape[0]} x {shape[1]}"
    )
    mends = [*_smaller_skip(spec, skip, layers), _instead(spec, name)]
    raise ConfigError(
        f"{name}: {whose} kernel {found} (bitsandbytes: {refused[shape]}); use {' or '.join(mends)}"
    )


def _broken_rule(kernel: Kernel, layer: str, shape: Shape) -> str | None:
    """What the kernel needs and `layer` has not, if it is as simple as that."""
    needed = multiples(kernel)
    if needed is None:
        return None
    for axis, word in ((1, "widths"), (0, "rows")):
        if shape[axis] % needed[axis]:
            return f"needs {word} in multiples of {needed[axis]}; {layer} has {shape[axis]}"
    return None


def _smaller_skip(
    spec: ModelSpec, skip: tuple[str, ...], layers: dict[str, Shape]
) -> Iterator[str]:
    """`skip` with which nothing is refused, unless it leaves nothing to quantize."""
    leaves = dict.fromkeys(f"*.{layer.rpartition('.')[2]}" for layer in layers)
    wider = (*skip, *leaves)
    if select_linears(spec, wider):
        yield f"skip=[{', '.join(map(json.dumps, wider))}]"


def _instead(spec: ModelSpec, name: str) -> str:
    """The nearest strategy that needs no kernel of bitsandbytes."""
    grid = f"group_size={best_group_size(spec)}"
    nearest = {"int8": f"rtn(bits=8, {grid})", "qlora": f"gptq(bits=4, {grid}) > lora"}
    return nearest.get(name, f"gptq(bits=4, {grid})")


def predict_int8(spec: ModelSpec, skip: tuple[str, ...]) -> ModelSpec:
    """The exact tensors of an LLM.int8 checkpoint."""
    return _replace(spec, skip, _int8_tensors, LLM_INT8)


def predict_nf4(spec: ModelSpec, skip: tuple[str, ...], *, double_quant: bool) -> ModelSpec:
    """The exact tensors of an NF4 checkpoint."""
    return _replace(spec, skip, _nested_tensors if double_quant else _nf4_tensors, NF4)


def _replace(
    spec: ModelSpec, skip: tuple[str, ...], replacement: Any, option: LayerOption
) -> ModelSpec:
    chosen = set(select_linears(spec, skip))
    tensors: list[TensorInfo] = []
    for tensor in spec.tensors:
        name, _, leaf = tensor.name.rpartition(".")
        if leaf != "weight" or name not in chosen:
            tensors.append(tensor)
            continue
        # Conv1D is stored as (inp, out); bitsandbytes keeps every matrix as (out, inp).
        shape = tensor.shape[::-1] if uses_conv1d(spec) else tensor.shape
        tensors += [
            tensor_info(f"{name}.{key}", dtype, size) for key, dtype, size in replacement(shape)
        ]
    return spec.with_tensors(
        tensors, quantization="bitsandbytes", options=dict.fromkeys(chosen, option)
    )


_Parts = list[tuple[str, str, tuple[int, ...]]]


def _int8_tensors(shape: tuple[int, ...]) -> _Parts:
    return [("weight", "I8", shape), ("SCB", "F32", (shape[0],)), ("weight_format", "U8", ())]


def _nf4_tensors(shape: tuple[int, ...]) -> _Parts:
    numel = shape[0] * shape[1]
    return [
        ("weight", "U8", (-(-numel // 2), 1)),  # two codes a byte, in one column
        ("weight.absmax", "F32", (-(-numel // BLOCK),)),
        ("weight.quant_map", "F32", (16,)),  # the values that codes of 4 bits stand for
        (_STATE, "U8", (STATE_BYTES,)),
    ]


def _nested_tensors(shape: tuple[int, ...]) -> _Parts:
    scales = -(-shape[0] * shape[1] // BLOCK)
    return [
        *(part for part in _nf4_tensors(shape) if part[0] != "weight.absmax"),
        ("weight.absmax", "U8", (scales,)),
        ("weight.nested_absmax", "F32", (-(-scales // NESTED_BLOCK),)),
        ("weight.nested_quant_map", "F32", (256,)),  # and those of scales in 8 bits
    ]


def nf4_options(source: Checkpoint, *, double_quant: bool) -> dict[str, Any]:
    """Options of transformers' BitsAndBytesConfig for NF4 that computes in the stored dtype."""
    from paredown.artifact.checkpoint import TORCH_DTYPES

    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": TORCH_DTYPES[source.spec.dtype],
        "bnb_4bit_use_double_quant": double_quant,
    }


def quantize(
    source: Checkpoint, out: Path, options: dict[str, Any], skip: tuple[str, ...], context: Context
) -> Tensor:
    """Write `source` to `out`, its block linears quantized by bitsandbytes.

    Args:
        options: of transformers' BitsAndBytesConfig, without the layers left out.

    Returns:
        Logits of the quantized model on the probe.

    Raises:
        MethodError: bitsandbytes left a layer as it was.
        NumericsError: a layer holds a NaN or an infinity.
    """
    import torch
    from transformers import BitsAndBytesConfig

    from paredown.blocks.foreign import other_linears, quantize_on_load
    from paredown.blocks.probe import probe_tokens
    from paredown.runtimes.torch.proof import probe

    chosen = select_linears(source.spec, skip)
    # transformers quantizes every linear but those named to it: head and vision tower as well.
    kept = other_linears(source, chosen, trust_remote_code=context.trust_remote_code)
    context.progress(0.1, "loading with bitsandbytes")
    model = quantize_on_load(
        source,
        BitsAndBytesConfig(**options, llm_int8_skip_modules=kept),
        device=context.device,
        trust_remote_code=context.trust_remote_code,
    )
    context.progress(0.6, "saving")
    # Before the probe, whose first product may repack the layers.
    _write(model, source, out, chosen)
    with torch.no_grad():
        return probe(model, probe_tokens(source.spec.vocabulary or 2))


def _write(model: Any, source: Checkpoint, out: Path, chosen: tuple[str, ...]) -> None:
    """The quantized layers as the model holds them, the rest as the source stores it.

    Before the first product: bitsandbytes may then repack a layer for a kernel, and what it saves
    of a repacked one is no longer what was quantized.
    """
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    from paredown.artifact.checkpoint import CheckpointWriter
    from paredown.blocks.names import module_name
    from paredown.ops.affine import require_finite

    with CheckpointWriter(out, source) as writer:
        for name in chosen:
            layer = model.get_submodule(module_name(model, name))
            if not isinstance(layer, Linear4bit | Linear8bitLt):
                raise MethodError(
                    f"{name}: bitsandbytes has not quantized this {type(layer).__name__}; it "
                    "replaces nn.Linear itself only"
                )
            for key, value in layer.state_dict().items():
                # Not quantized: `copy_rest` takes it from the source.
                if key == "bias":
                    continue
                # Codes say nothing of a NaN in the weights; the scales that come of it do.
                if value.is_floating_point():
                    require_finite(value, name)
                writer.add(f"{name}.{key}", _filled_up(value) if key == _STATE else value)
        writer.copy_rest(without={f"{name}.weight" for name in chosen})
        settings = model.config.to_dict()["quantization_config"]
        writer.config["quantization_config"] = settings


def _filled_up(state: Tensor) -> Tensor:
    import torch

    text = bytes(state.cpu().tolist())
    if len(text) > STATE_BYTES:
        raise AssertionError(f"{len(text)} bytes of quant_state, {STATE_BYTES} are reserved")
    return torch.tensor(list(text.ljust(STATE_BYTES)), dtype=torch.uint8)
