"""From hidden states to logits, by hand."""

from __future__ import annotations

import math

import torch

from paredown.ops.readout import Readout


def test_linear_then_scaled_then_capped() -> None:
    weight = torch.tensor([[1.0, 2.0], [0.0, -1.0], [3.0, 0.5]])
    bias = torch.tensor([0.5, 0.0, -1.0])
    hidden = torch.tensor([[2.0, 1.0]], dtype=torch.bfloat16)
    # 2 + 2 + 0.5, -1, 6 + 0.5 - 1; then halved; then 2 tanh(x / 2)
    plain = torch.tensor([[4.5, -1.0, 5.5]])
    torch.testing.assert_close(Readout(weight, bias).logits(hidden), plain)
    torch.testing.assert_close(Readout(weight, bias, scale=0.5).logits(hidden), plain / 2)
    capped = Readout(weight, bias, scale=0.5, cap=2.0).logits(hidden)
    expected = [[2 * math.tanh(x / 2) for x in (2.25, -0.5, 2.75)]]
    torch.testing.assert_close(capped, torch.tensor(expected))


def test_without_a_bias() -> None:
    weight = torch.eye(2)
    torch.testing.assert_close(Readout(weight, None).logits(2 * weight), 2 * weight)
