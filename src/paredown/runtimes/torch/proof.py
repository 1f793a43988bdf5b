"""Proof that an artifact is the model that was compressed.

`probe` computes logits on fixed tokens; an artifact counts only when every loader it claims gives,
in a fresh process, the logits that were computed from the weights in memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from paredown.errors import VerificationError
from paredown.ops.divergence import kl_rows
from paredown.runtimes.torch.eight_bit import unrounded_activations
from paredown.runtimes.torch.packed import PackedLinear

EXACT = 1e-3
"""Mean KL, nats per token, between two float32 computations of the same weights: at most this."""
ROUNDED = 0.3
"""The same where one side computes in 16 bits. A damaged model multiplies rounding, so this only
tells a wrong model from a right one; whether the packed kernels compute right is checked layer by
layer (`check_kernels`)."""
KERNEL_ERROR = 0.02
"""Largest relative error of a packed layer's output in 16 bits."""


@torch.no_grad()
def probe(model: Any, tokens: Tensor) -> Tensor:
    """Logits (tokens, vocabulary) in float32 on the CPU, activations unrounded where a model rounds
    them (W8A8): what rounding does is checked layer by layer, in `check_kernels`.

    Raises:
        VerificationError: they are not finite.
    """
    with unrounded_activations(model):
        logits: Tensor = model(tokens.to(model.device), use_cache=False).logits[0].float().cpu()
    if not torch.isfinite(logits).all():
        raise VerificationError("the model's logits are not finite")
    return logits


def compare(expected: Tensor, found: Tensor, loader: str, *, tolerance: float = EXACT) -> float:
    """Mean KL in nats per token of `found` from `expected` logits.

    Raises:
        VerificationError: more than `tolerance`: what was reloaded is another model.
    """
    if expected.shape != found.shape:
        raise VerificationError(
            f"reloaded through {loader}: logits {tuple(found.shape)}, not {tuple(expected.shape)}"
        )
    mean = float(kl_rows(expected.log_softmax(-1), found.log_softmax(-1)).mean())
    if not mean <= tolerance:  # NaN included
        raise VerificationError(
            f"reloaded through {loader}, the model is not the one that was compressed: "
            f"KL {mean:.3g} nats per token, where rounding explains at most {tolerance}"
        )
    return mean


@torch.no_grad()
def check_kernels(model: nn.Module) -> float:
    """Largest relative error of the packed kernels against the same weights unpacked.

    Raises:
        VerificationError: a kernel computes something else.
    """
    worst = 0.0
    generator = torch.Generator().manual_seed(0)
    seen: set[int] = set()
    for name, module in model.named_modules():
        if not isinstance(module, PackedLinear) or id(module.weights) in seen:
            continue
        # q, k and v (gate and up) share one weight, which is tried once.
        seen.add(id(module.weights))
        weight = module.weights
        x = torch.randn(2, weight.width, generator=generator).to(weight.codes.device)
        x = x.to(weight.dtype)
        exact = weight.exact(x)
        error = float((weight.multiply(x).float() - exact).norm() / exact.norm().clamp(min=1e-30))
        worst = max(worst, error)
        if not error <= KERNEL_ERROR:
            raise VerificationError(
                f"{name}: the {weight.kernel} kernel is off by {error:.1%} from its own weights"
            )
    return worst
