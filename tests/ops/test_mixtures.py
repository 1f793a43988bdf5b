"""Which experts are kept, against hand-worked cases."""

from __future__ import annotations

import torch

from paredown.ops.mixtures import strongest


def test_the_largest_scores_stay_in_the_order_of_their_numbers() -> None:
    assert strongest(torch.tensor([3.0, 0.0, 5.0, 4.0]), 2) == [2, 3]
    assert strongest(torch.tensor([3.0, 0.0, 5.0, 4.0]), 3) == [0, 2, 3]


def test_of_equal_scores_the_first_stay() -> None:
    assert strongest(torch.zeros(5), 3) == [0, 1, 2]


def test_every_group_keeps_as_many() -> None:
    scores = torch.tensor([9.0, 8.0, 7.0, 1.0, 3.0, 2.0])
    assert strongest(scores, 4, groups=2) == [0, 1, 4, 5]
    assert strongest(scores, 2, groups=2) == [0, 4]
    assert strongest(scores, 4) == [0, 1, 2, 4]
