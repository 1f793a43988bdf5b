"""bitsandbytes' kernels: asked for what they compute here, and kept from what they cannot.

`python -m paredown.runtimes.torch.kernels FOLDER` answers the questions of `runtimes.kernels`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import TORCH_DTYPES
from paredown.runtimes.kernels import ANSWERS, QUESTIONS, STARTED, Kernel, refusals

OFF = 0.05
"""Largest relative error of a product that counts as right: LLM.int8 rounds activations to 8 bits,
which costs 0.01."""
_COUNTS = (1, 5)
"""Rows of activations: decode and prefill may take different kernels."""
_FAST = "support_avx512bf16_for_cpu"
"""Attribute of bitsandbytes' `Linear4bit`: whether it repacks its weights, at the first product in
evaluation mode, for the kernel of processors with AVX512-BF16."""


def why_not(name: str, rows: int, width: int, *, dtype: torch.dtype, device: str) -> str:
    """Why bitsandbytes does not multiply by a (rows, width) matrix here; "" if it does.

    Args:
        name: `nf4` or `int8`.
        dtype: of activations.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, width, generator=generator).to(dtype)
    try:
        for layer, exact in _layers(name, weight, device):
            for count in _COUNTS:
                x = torch.randn(count, width, generator=generator).to(dtype)
                expected = x.float() @ exact.T
                found = layer(x.to(device)).float().cpu()
                error = float((found - expected).norm() / expected.norm())
                if not error <= OFF:  # NaN included
                    return f"its product is off by {error:.0%}"
    except torch.OutOfMemoryError:
        raise  # says nothing about the kernel
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _layers(name: str, weight: Tensor, device: str) -> list[tuple[nn.Module, Tensor]]:
    """Layers of a kernel around `weight` (rows, width), and what their codes stand for, float32."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import modules

    made_of: Any = modules  # it has hardly any types
    rows, width = weight.shape
    found: list[tuple[nn.Module, Tensor]] = []
    if name == "int8":
        eight = made_of.Linear8bitLt(
            width, rows, bias=False, has_fp16_weights=False, threshold=6.0, device="meta"
        )
        eight.weight = made_of.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        eight = eight.to(device).eval()
        exact = eight.weight.data.float() * eight.weight.SCB[:, None] / 127
        return [(eight, exact.cpu())]
    for nested in (True, False):
        layer = made_of.Linear4bit(
            width,
            rows,
            bias=False,
            compute_dtype=weight.dtype,
            quant_type="nf4",
            device="meta",  # its own weights are of no use
        )
        layer.weight = made_of.Params4bit(
            weight, requires_grad=False, quant_type="nf4", compress_statistics=nested
        )
        layer = layer.to(device).eval()
        # Before the first product, which may bring the codes into an order of the kernel's own.
        exact = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        found.append((layer, exact.float().cpu()))
    return found


def keep_differentiable(model: nn.Module) -> None:
    """Let NF4 layers compute in the way through which gradients pass.

    The kernel of processors with AVX512-BF16 has no gradient, and once a layer has been repacked
    for it, there is no way back: training after a look at the held-out loss would leave out, in
    silence, all that flows through such layers.
    """
    for module in model.modules():
        if hasattr(module, _FAST):
            setattr(module, _FAST, False)


def use_fast_kernels(model: nn.Module) -> None:
    """Undo `keep_differentiable`: layers compute as bitsandbytes would have them."""
    slowed = [m for m in model.modules() if getattr(m, _FAST, None) is False]
    if slowed:
        from bitsandbytes import functional

        library: Any = functional
        for module in slowed:
            setattr(module, _FAST, bool(library.has_avx512bf16()))


def spare_refused_shapes(model: Any, dtype: str) -> int:
    """Keep NF4 layers whose shape the fast kernel refuses from it; returns how many.

    They compute as on other processors. Planning refuses such shapes, but a model may come from
    another machine.

    Args:
        dtype: of activations, by safetensors name.

    Raises:
        ConfigError: bitsandbytes does not start here.
    """
    fast = [m for m in model.modules() if getattr(m, _FAST, False)]
    if not fast:  # no NF4, or another processor
        return 0
    shapes = {id(m): (m.out_features, m.in_features) for m in fast}
    refused = refusals(Kernel(name="nf4", device="cpu", dtype=dtype), set(shapes.values()))
    spared = [m for m in fast if shapes[id(m)] in refused]
    for module in spared:
        setattr(module, _FAST, False)
    return len(spared)


def main(folder: Path) -> None:
    """Answer the questions in `folder`, each before the next is read: it may be the last."""
    questions = json.loads((folder / QUESTIONS).read_text())
    dtype, device = TORCH_DTYPES[questions["dtype"]], str(questions["device"])
    import bitsandbytes  # noqa: F401  a library that does not start is no answer of a kernel

    torch.set_num_threads(1)
    # A plan for a GPU that is not here is no reason to refuse it.
    here = device == "cpu" or torch.cuda.is_available()
    with (folder / ANSWERS).open("w") as file, torch.no_grad():
        print(json.dumps(STARTED), file=file, flush=True)
        for rows, width in questions["shapes"]:
            why = ""
            if here:
                why = why_not(questions["name"], rows, width, dtype=dtype, device=device)
            print(json.dumps([rows, width, why]), file=file, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
