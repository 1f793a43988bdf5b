"""Exact numbers of the smallest scores."""

from __future__ import annotations

import pytest
import torch

from paredown.ops.masks import cut, cutoff, smallest, smallest_of_groups, smallest_of_layer


@pytest.fixture
def scores() -> torch.Tensor:
    return torch.rand(24, 64, generator=torch.Generator().manual_seed(0))


def test_hand_worked_rows() -> None:
    found = smallest(torch.tensor([[3.0, 1.0, 2.0, 0.5], [4.0, 4.0, 9.0, 1.0]]), 2)
    assert found.tolist() == [[False, True, False, True], [True, False, False, True]]


def test_hand_worked_layer() -> None:
    found = smallest_of_layer(torch.tensor([[3.0, 1.0], [2.0, 0.5]]), 3)
    assert found.tolist() == [[False, True], [True, True]]


def test_hand_worked_groups() -> None:
    found = smallest_of_groups(torch.tensor([[1.0, 2.0, 3.0, 4.0, 8.0, 7.0, 6.0, 5.0]]), 4, 2)
    assert found.tolist() == [[True, True, False, False, False, False, True, True]]


@pytest.mark.parametrize("count", [0, 1, 31, 64])
def test_as_many_of_each_row_as_asked_for(scores: torch.Tensor, count: int) -> None:
    found = smallest(scores, count)
    assert (found.sum(1) == count).all()
    slow = torch.zeros_like(found)
    for row, order in enumerate(scores.argsort(dim=1)):
        slow[row, order[:count]] = True
    assert torch.equal(found, slow)


def test_equal_scores_go_from_the_front() -> None:
    assert smallest(torch.ones(1, 4), 3).tolist() == [[True, True, True, False]]
    assert smallest_of_groups(torch.ones(1, 4), 4, 2).tolist() == [[True, True, False, False]]


def test_groups_have_their_numbers(scores: torch.Tensor) -> None:
    found = smallest_of_groups(scores, 8, 3)
    assert (found.reshape(-1, 8).sum(1) == 3).all()
    assert torch.equal(found, smallest(scores.reshape(-1, 8), 3).reshape(found.shape))


@pytest.mark.parametrize("count", [1, 700, 1536])
def test_cutoff_over_parts_is_that_of_the_whole(scores: torch.Tensor, count: int) -> None:
    parts = scores.split(5)
    value, ties = cutoff(lambda: parts, count)
    assert value == scores.flatten().kthvalue(count).values
    found = []
    for part in parts:
        mask, ties = cut(part, value, ties)
        found.append(mask)
    assert ties == 0
    assert torch.equal(torch.cat(found), smallest_of_layer(scores, count))


def test_cutoff_with_equal_scores_is_exact() -> None:
    parts = [torch.zeros(10), torch.ones(10), torch.full((10,), 2.0), torch.ones(10)]
    value, ties = cutoff(lambda: parts, 25)
    assert (value, ties) == (1.0, 15)
    counts = []
    for part in parts:
        mask, ties = cut(part, value, ties)
        counts.append(int(mask.sum()))
    assert counts == [10, 10, 0, 5]


def test_cutoff_tells_neighbouring_floats_apart() -> None:
    one = torch.tensor(1.0)
    above = torch.nextafter(one, torch.tensor(2.0))
    value, ties = cutoff(lambda: [torch.stack([above, one])], 1)
    assert (value, ties) == (1.0, 1)
    value, ties = cutoff(lambda: [torch.stack([above, one])], 2)
    assert (value, ties) == (float(above), 1)


def test_cutoff_of_nothing_removes_nothing(scores: torch.Tensor) -> None:
    mask, left = cut(scores, *cutoff(lambda: [scores], 0))
    assert not mask.any()
    assert left == 0
