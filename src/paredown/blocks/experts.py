"""Experts as plain linears, where transformers keeps all experts of a block in 3-D tensors.

Files hold one matrix per expert and projection, and so does every method here: each expert has its
own codes, masks and Hessians.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

_FUSED = {"MixtralExperts", "Qwen2MoeExperts", "Qwen3MoeExperts"}
"""Classes of transformers that compute `down(act(gate x) * up x)` per expert, without biases."""

_STATEMENT = "paredown_rare_experts"
"""Key of the config under which a model names the layers that calibration text hardly reached."""


def rare_experts(layers: list[str], chosen: Collection[str]) -> dict[str, Any]:
    """What a config says of the `chosen` layers among those that too few tokens reached."""
    names = [name for name in layers if name in chosen]
    return {_STATEMENT: names} if names else {}


def rare_notes(config: dict[str, Any]) -> tuple[str, ...]:
    """What a user should know of a model whose config says so."""
    names = config.get(_STATEMENT)
    if not names:
        return ()
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return (
        f"too few calibration tokens reached {len(names)} layers of experts, so they were "
        f"compressed without data (rounded to nearest, or masked by size alone): {shown}; "
        "config.json names all; calibrate with more text",
    )


class Expert(nn.Module):
    """One expert: `down(act(gate x) * up x)`."""

    def __init__(self, width: int, hidden: int, activation: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False, dtype=dtype)
        self.up_proj = nn.Linear(width, hidden, bias=False, dtype=dtype)
        self.down_proj = nn.Linear(hidden, width, bias=False, dtype=dtype)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = self.activation(self.gate_proj(x)) * self.up_proj(x)
        result: Tensor = self.down_proj(product)
        return result


class Experts(nn.ModuleList):
    """The experts of a block; computes what the fused module of transformers computes."""

    def forward(self, hidden: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """Sum over each token's chosen experts, weighted by their shares.

        Args:
            hidden: (tokens, width).
            chosen: (tokens, k) int64 numbers of experts.
            shares: (tokens, k).

        Returns:
            (tokens, width), dtype of `hidden`.
        """
        total = torch.zeros_like(hidden)
        for number in chosen.unique().tolist():  # experts without a token are not run
            tokens, place = torch.where(chosen == number)
            part = self[number](hidden[tokens]) * shares[tokens, place, None]
            total.index_add_(0, tokens, part.to(total.dtype))
        return total


def separate_experts(model: nn.Module) -> None:
    """Replace fused experts, whose weights are not filled yet, by `Experts`."""
    for name, module in list(model.named_modules()):
        if type(module).__name__ in _FUSED:
            model.set_submodule(name, _separated(module))


def _separated(fused: Any) -> Experts:
    count, width, hidden = fused.down_proj.shape
    dtype = fused.down_proj.dtype
    with torch.device("meta"):
        return Experts(Expert(width, hidden, fused.act_fn, dtype) for _ in range(count))
