"""Block influence against hand-worked angles."""

from __future__ import annotations

import torch

from paredown.ops.influence import block_influence


def test_hand_worked_angles() -> None:
    before = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    after = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 5.0]])
    expected = torch.tensor([0.0, 1.0, 2.0, 1 - 0.5**0.5])
    torch.testing.assert_close(block_influence(before, after), expected)


def test_lengths_do_not_count() -> None:
    before = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    after = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    found = block_influence(before, after)
    assert found.shape == (2, 5)
    torch.testing.assert_close(block_influence(3 * before, after / 7), found)
