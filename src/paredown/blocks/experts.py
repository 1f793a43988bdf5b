"""Experts as plain linears, where transformers keeps all experts of a block in 3-D tensors.

Files hold one matrix per expert and projection, and so does every method here: each expert has its
own codes, masks and Hessians.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

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
        f"too few calibration tokens reached {len(names)} layers (of experts, or of blocks that "
        "read images), so they were compressed without data (rounded to nearest, or masked by "
        f"size alone): {shown}; "
        "config.json names all; calibrate with more text",
    )


class Expert(nn.Module):
    """One expert: `down(act(gate x) * up x)`, or `down(act(up x))` where there is no gate."""

    def __init__(
        self,
        width: int,
        hidden: int,
        combine: Callable[..., Tensor],
        *,
        gate: bool,
        bias: bool,
        dtype: torch.dtype,
    ) -> None:
        """`combine` makes (tokens, hidden) of what gate and up, or up alone, give of these."""
        super().__init__()
        if gate:
            self.gate_proj = nn.Linear(width, hidden, bias=bias, dtype=dtype)
        self.up_proj = nn.Linear(width, hidden, bias=bias, dtype=dtype)
        self.down_proj = nn.Linear(hidden, width, bias=bias, dtype=dtype)
        self.has_gate, self.combine = gate, combine

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, width) to (tokens, width)."""
        inputs = (self.gate_proj(x), self.up_proj(x)) if self.has_gate else (self.up_proj(x),)
        result: Tensor = self.down_proj(self.combine(*inputs))
        return result


class Experts(nn.ModuleList):
    """The experts of a block; computes what the fused module of transformers computes.

    Attributes:
        watch: told of each expert that is run: its number, what it gives (tokens, width), and the
            tokens' shares (tokens,), None where those were applied to its inputs (Llama 4).
    """

    watch: Callable[[int, Tensor, Tensor | None], None] | None = None

    def forward(
        self, hidden: Tensor, chosen: Tensor | None = None, shares: Tensor | None = None
    ) -> Tensor:
        """Sum over each token's chosen experts, weighted by their shares.

        Args:
            hidden: (tokens, width); where nothing is chosen, an equal part for each expert.
            chosen: (tokens, k) int64 numbers of experts.
            shares: (tokens, k).

        Returns:
            (tokens, width), dtype of `hidden`.
        """
        if chosen is None or shares is None:  # Llama 4 has sorted the tokens by expert
            parts = hidden.view(len(self), -1, hidden.shape[-1])
            return torch.cat([self._run(number, part, None) for number, part in enumerate(parts)])
        total = torch.zeros_like(hidden)
        for number in chosen.unique().tolist():  # experts without a token are not run
            if number == len(self):
                continue  # the mark of a token that an expert has no room for
            tokens, place = torch.where(chosen == number)
            share = shares[tokens, place]
            part = self._run(number, hidden[tokens], share) * share[:, None]
            total.index_add_(0, tokens, part.to(total.dtype))
        return total

    def _run(self, number: int, hidden: Tensor, share: Tensor | None) -> Tensor:
        given: Tensor = self[number](hidden)
        if self.watch is not None:
            self.watch(number, given, share)
        return given


def separate_experts(model: nn.Module) -> None:
    """Replace fused experts, whose weights are not filled yet, by `Experts`."""
    for name, module in list(model.named_modules()):
        if _is_fused(module):
            model.set_submodule(name, _separated(module))


def _is_fused(module: Any) -> bool:
    """Whether a module keeps all experts of a block in tensors (experts, rows, columns)."""
    weights = [module._parameters.get(n) for n in ("down_proj", "gate_up_proj", "up_proj")]
    down, *first = weights
    known = not getattr(module, "has_post_expert_norm", False)
    is_stack = down is not None and down.ndim == 3
    return known and is_stack and any(weight is not None for weight in first)


def _separated(fused: Any) -> Experts:
    # Each matrix stands as it is multiplied with (x W) in some families, as in a linear in others.
    transposed = getattr(fused, "is_transposed", not hasattr(fused, "has_gate"))
    count, *shape = fused.down_proj.shape
    width, hidden = shape[::-1] if transposed else shape
    gate, bias = hasattr(fused, "gate_up_proj"), hasattr(fused, "down_proj_bias")
    dtype = fused.down_proj.dtype
    hollow = copy.copy(fused)  # knows how gate and up are combined
    hollow.__dict__["_parameters"] = {}
    combine = _combine(hollow) if gate else fused.act_fn
    with torch.device("meta"):
        made = (
            Expert(width, hidden, combine, gate=gate, bias=bias, dtype=dtype) for _ in range(count)
        )
        return Experts(made)


def _combine(fused: Any) -> Callable[[Tensor, Tensor], Tensor]:
    if not hasattr(fused, "_apply_gate"):
        return lambda gate, up: fused.act_fn(gate) * up
    if getattr(fused, "is_concatenated", True):
        return lambda gate, up: fused._apply_gate(torch.cat((gate, up), dim=-1))
    return lambda gate, up: fused._apply_gate(torch.stack((gate, up), dim=-1).flatten(-2))
