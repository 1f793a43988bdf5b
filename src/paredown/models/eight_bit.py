"""Eight-bit weights and activations (W8A8) in compressed-tensors' own two formats.

`int-quantized` stores int8, `float-quantized` FP8 (E4M3): per layer `weight` and one `weight_scale`
per row. Activations are quantized while computing, with one scale per token, and the product is
one of integers (or of FP8 numbers where the device has them). Plain transformers computes the same
numbers in floating point; vLLM has kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from paredown.errors import ModelError
from paredown.models.checkpoint import TORCH_DTYPES, Checkpoint, CheckpointWriter
from paredown.models.packed import PackedLinear, linears_on
from paredown.models.walk import BlockWalk, submodule
from paredown.ops.affine import require_finite
from paredown.ops.eight_bit import (
    FP8,
    INT8,
    Number,
    dequantize_rows,
    int_product,
    quantize_rows,
)
from paredown.spec.structure import Block

_FORMATS = {"int-quantized": INT8, "float-quantized": FP8}
FP8_PRODUCTS = (8, 9)
"""CUDA compute capability that multiplies FP8 numbers."""
INT8_ROWS_ON_GPU = 32
"""Integer products on CUDA want more than 16 rows."""


@dataclass(frozen=True)
class EightBit:
    """How a layer computes: its numbers, and whether activations are quantized too."""

    number: Number
    activations: bool


@final
class EightBitWeight(nn.Module):
    """A weight matrix (rows, width) of eight-bit codes; multiplies from the right."""

    codes: Tensor
    scale: Tensor

    def __init__(
        self, codes: Tensor, scale: Tensor, how: EightBit, *, dtype: torch.dtype, device: str
    ) -> None:
        """`scale` is (rows, 1); `dtype` is that of activations."""
        super().__init__()
        self.rows, self.width = codes.shape
        self.how, self.dtype, self.rounds = how, dtype, how.activations
        self.kernel = _kernel(how, codes.shape, device)
        self.register_buffer("codes", codes.to(device), persistent=False)
        self.register_buffer("scale", scale.float().to(device), persistent=False)

    def multiply(self, x: Tensor) -> Tensor:
        """`x W^T` for x (n, width): (n, rows) in x's dtype."""
        if not self.rounds:
            return x @ self.dense(x.dtype).T
        codes, scale = quantize_rows(x, self.how.number)
        if self.kernel == "int8xint8":
            least = INT8_ROWS_ON_GPU if codes.is_cuda else 1
            y = int_product(codes, self.codes, least_rows=least).mul_(scale).mul_(self.scale.T)
        elif self.kernel == "fp8xfp8":
            y = torch._scaled_mm(
                codes,
                self.codes.T,
                scale_a=scale,
                scale_b=self.scale.T,
                out_dtype=torch.bfloat16,
            )
        else:
            y = dequantize_rows(codes, scale, x.dtype) @ self.dense(x.dtype).T
        return y.to(x.dtype)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weights, unpacked, (rows, width) in `dtype`; nothing is kept."""
        return dequantize_rows(self.codes, self.scale, dtype)

    def exact(self, x: Tensor) -> Tensor:
        """What `multiply` stands for, in plain float32 arithmetic."""
        if self.rounds:
            x = dequantize_rows(*quantize_rows(x, self.how.number))
        return x.float() @ self.dense(torch.float32).T

    def extra_repr(self) -> str:
        return f"{self.rows}x{self.width}, kernel={self.kernel}"


@contextmanager
def unrounded_activations(model: nn.Module) -> Iterator[None]:
    """Leave activations as they are in layers that round them, ours or compressed-tensors'.

    Rounding makes a model a discontinuous function of its input: a change in the last bit of one
    activation moves another by a whole step, and through some layers that becomes as large as the
    error of the rounding itself. So two correct implementations agree layer by layer, and without
    the rounding as a whole, but not as a whole with it.
    """
    ours = [m for m in model.modules() if isinstance(m, EightBitWeight) and m.how.activations]
    theirs: list[Any] = [
        m
        for m in model.modules()
        if getattr(getattr(m, "quantization_scheme", None), "input_activations", None) is not None
    ]
    for module in ours:
        module.rounds = False
    for module in theirs:
        module.quantization_enabled = False
    try:
        yield
    finally:
        for module in ours:
            module.rounds = True
        for module in theirs:
            module.quantization_enabled = True


def _kernel(how: EightBit, shape: torch.Size, device: str) -> str:
    if not how.activations:
        return "unpack"
    if how.number is INT8:
        return "int8xint8" if device == "cpu" or all(n % 8 == 0 for n in shape) else "unpack"
    has_fp8 = device == "cuda" and torch.cuda.get_device_capability() >= FP8_PRODUCTS
    return "fp8xfp8" if has_fp8 and all(n % 16 == 0 for n in shape) else "unpack"


def eight_bit_linears(
    parts: list[tuple[Tensor, Tensor, Tensor | None]],
    how: EightBit,
    *,
    dtype: torch.dtype,
    device: str,
) -> list[PackedLinear]:
    """Linears that read one input, as one product.

    Args:
        parts: per linear its codes (rows, width), scale (rows, 1), and bias (rows,) or None.
        dtype: dtype of activations.
    """
    codes = torch.cat([c.view(torch.uint8) for c, _, _ in parts]).view(how.number.dtype)
    scale = torch.cat([s for _, s, _ in parts])
    weight = EightBitWeight(codes, scale, how, dtype=dtype, device=device)
    return linears_on(weight, [len(c) for c, _, _ in parts], [bias for _, _, bias in parts])


# --- Writing --------------------------------------------------------------------------------------

Prepare = Callable[[Block, nn.Module, dict[str, Tensor]], dict[str, Tensor]]
"""(block, its module, {layer name: float32 weight}) -> other tensors changed, by full name. May
replace the weights in the mapping."""


@torch.no_grad()
def write_eight_bit(
    source: Checkpoint,
    out: Path,
    *,
    walk: BlockWalk,
    chosen: set[str],
    how: EightBit,
    prepare: Prepare,
    progress: Callable[[float, str], None],
) -> Tensor:
    """Write `source` to `out` with the linears in `chosen` in eight bits.

    Returns:
        Logits on the probe with quantized weights and unrounded activations; see
        `unrounded_activations`.

    Raises:
        NumericsError: a weight is NaN or infinite.
    """
    ignored = [
        name
        for name, module in walk.model.named_modules()
        if isinstance(module, nn.Linear) and name not in chosen
    ]
    scale_dtype = TORCH_DTYPES[source.spec.dtype]
    with CheckpointWriter(out, source) as writer:
        for done, (block, module) in enumerate(walk):
            layers = {n: submodule(module, block, n) for n in block.linears if n in chosen}
            weights = {name: layer.weight.detach().float() for name, layer in layers.items()}
            for name, weight in weights.items():
                require_finite(weight, name)
            for key, value in prepare(block, module, weights).items():
                writer.add(key, value)
            for name, weight in weights.items():
                codes, scale = quantize_rows(weight, how.number, scale_dtype=scale_dtype)
                writer.add(f"{name}.weight", codes)
                writer.add(f"{name}.weight_scale", scale)
                layers[name].weight.data = dequantize_rows(codes, scale, walk.dtype)
            walk.advance_probe(block, module)
            progress((done + 1) / len(walk.blocks), f"block {done + 1} of {len(walk.blocks)}")
        writer.copy_rest(without=set())
        writer.config["quantization_config"] = _config(how, ignored)
    return walk.logits()


def _config(how: EightBit, ignored: list[str]) -> dict[str, Any]:
    layout = next(name for name, number in _FORMATS.items() if number is how.number)
    common = {"num_bits": 8, "type": how.number.kind, "symmetric": True}
    weights = {**common, "strategy": "channel", "dynamic": False, "observer": "minmax"}
    inputs = {**common, "strategy": "token", "dynamic": True, "observer": None}
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": inputs if how.activations else None,
        "output_activations": None,
        "format": layout,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignored,
        "kv_cache_scheme": None,
    }


# --- Reading --------------------------------------------------------------------------------------


def read_eight_bit(checkpoint: Checkpoint) -> dict[str, EightBit]:
    """How each layer stored in one of the two formats computes; none for other checkpoints.

    Raises:
        ModelError: a part of the formats that is not understood here.
    """
    config = checkpoint.config.get("quantization_config") or {}
    number = _FORMATS.get(str(config.get("format")))
    if number is None:
        return {}
    groups = list((config.get("config_groups") or {}).values())
    if len(groups) != 1:
        raise ModelError(f"{config['format']} with {len(groups)} quantization groups is not read")
    weights, inputs = groups[0]["weights"], groups[0].get("input_activations")
    plain = weights["strategy"] == "channel" and weights["symmetric"] is True
    per_token = inputs is None or (inputs["strategy"] == "token" and inputs["dynamic"] is True)
    if not (plain and per_token):
        raise ModelError(
            f"{config['format']} is read with one weight scale per row and dynamic activation "
            "scales per token only"
        )
    dtypes = {t.name: TORCH_DTYPES[t.dtype] for t in checkpoint.spec.tensors}
    names = [n.removesuffix("_scale") for n in dtypes if n.endswith(".weight_scale")]
    return {
        name.removesuffix(".weight"): EightBit(number, inputs is not None)
        for name in names
        if dtypes.get(name) == number.dtype
    }


def eight_bit_parts(
    checkpoint: Checkpoint, names: list[str]
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Codes, scale and bias of some layers, for `eight_bit_linears`."""
    stored = checkpoint.spec.by_name
    return [
        (
            checkpoint.read(f"{name}.weight"),
            checkpoint.read(f"{name}.weight_scale"),
            checkpoint.read(f"{name}.bias") if f"{name}.bias" in stored else None,
        )
        for name in names
    ]


def eight_bit_notes(
    kernels: Mapping[str, int], layers: dict[str, EightBit], device: str
) -> tuple[str, ...]:
    """What a user should know of how these layers compute on this device."""
    if not layers or not kernels.get("unpack"):
        return ()
    return (
        f"{kernels['unpack']} layers in eight bits are unpacked layer by layer on {device}: "
        "smaller in memory, but not faster",
    )
