"""Scores of neurons: hand-worked values, comparison between layers, order, ties."""

from __future__ import annotations

import itertools

import pytest
import torch

from paredown.ops.saliency import (
    CLIP,
    flap_scores,
    l2_scores,
    random_scores,
    shared_widths,
    standardised,
    strongest,
    trimmed_means,
    wanda_sp_scores,
)


def test_hand_worked_norms() -> None:
    gate = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 3.0]])
    up = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    down = torch.tensor([[0.0, 3.0, 0.0], [4.0, 4.0, 0.0]])  # columns belong to neurons
    assert l2_scores([gate, up], down).tolist() == [5.0, 5.0, 3.0]  # 9+16, 9+16, 9


def test_norm_is_that_of_all_weights_of_the_neuron() -> None:
    generator = torch.Generator().manual_seed(0)
    gate, up = torch.randn(2, 10, 6, generator=generator)
    down = torch.randn(6, 10, generator=generator)
    every = torch.cat((gate, up, down.T), dim=1)
    torch.testing.assert_close(l2_scores([gate, up], down), torch.linalg.vector_norm(every, dim=1))
    torch.testing.assert_close(
        l2_scores([up], down), torch.linalg.vector_norm(torch.cat((up, down.T), dim=1), dim=1)
    )


def test_scores_follow_a_permutation_of_neurons() -> None:
    generator = torch.Generator().manual_seed(0)
    gate, down = torch.randn(10, 6, generator=generator), torch.randn(6, 10, generator=generator)
    order = torch.randperm(10, generator=generator)
    moved = l2_scores([gate[order]], down[:, order])
    torch.testing.assert_close(moved, l2_scores([gate], down)[order])


def test_half_precision_does_not_overflow() -> None:
    large = torch.full((2, 4), 300.0, dtype=torch.float16)  # 300 squared is beyond float16
    scores = l2_scores([large], large.T)
    assert scores.dtype == torch.float32
    assert torch.allclose(scores, torch.full((2,), 300.0 * 8**0.5))


def test_strongest_come_in_rising_order() -> None:
    assert strongest(torch.tensor([0.1, 5.0, 2.0, 4.0]), 2).tolist() == [1, 3]
    assert strongest(torch.tensor([9.0, 5.0, 2.0, 4.0]), 3).tolist() == [0, 1, 3]


def test_ties_keep_the_lower_index() -> None:
    assert strongest(torch.ones(100), 3).tolist() == [0, 1, 2]
    assert strongest(torch.tensor([1.0, 2.0, 1.0, 1.0]), 3).tolist() == [0, 1, 2]


def test_random_scores_depend_on_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    one = random_scores(64, 7)
    assert torch.equal(one, random_scores(64, 7))
    assert not torch.equal(one, random_scores(64, 8))
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing global was seeded
    assert (one >= 0).all()
    assert (one < 1).all()


def test_random_choice_is_uniform() -> None:
    chosen = torch.zeros(16)
    for seed in range(400):
        chosen[strongest(random_scores(16, seed), 8)] += 1
    assert (chosen - 200).abs().max() < 50  # five standard deviations of 10


DOWN = torch.tensor([[3.0, 0.0, 1.0], [4.0, 2.0, 0.0]])  # columns belong to neurons


def test_wanda_sp_hand_worked() -> None:
    scores = wanda_sp_scores(DOWN, torch.tensor([4.0, 9.0, 0.0]))
    assert scores.tolist() == [10.0, 6.0, 0.0]  # 5 x 2, 2 x 3, 1 x 0


def test_flap_hand_worked() -> None:
    scores = flap_scores(DOWN, torch.tensor([4.0, 9.0, 1.0]), torch.tensor([1.0, 3.0, 0.0]))
    assert scores.tolist() == [75.0, 0.0, 1.0]  # 25 x 3; a constant neuron; 1 x 1


def test_flap_does_not_go_below_zero() -> None:
    scores = flap_scores(DOWN, torch.full((3,), 1.0 - 1e-6), torch.ones(3))
    assert scores.tolist() == [0.0, 0.0, 0.0]


def test_trimmed_means_leave_out_both_ends() -> None:
    values = torch.arange(100.0).reshape(-1, 1)
    values[0], values[99] = -1e6, 1e9
    assert trimmed_means(values).tolist() == [49.5]  # 2 .. 97
    assert trimmed_means(-values).tolist() == [49.5]
    assert trimmed_means(torch.tensor([[1.0], [-4.0]])).tolist() == [1.5]  # too few to trim


def test_standard_scores_are_those_of_all_layers_together() -> None:
    found = standardised([torch.tensor([1.0, 2.0]), torch.tensor([3.0])])
    deviation = (2 / 3) ** 0.5
    assert [len(layer) for layer in found] == [2, 1]
    expected = torch.tensor([-1.0, 0.0, 1.0]) / deviation
    torch.testing.assert_close(torch.cat(found), expected)


def test_robust_scores_hand_worked() -> None:
    # Median 3, absolute deviations 2 1 0 1 97, their median 1.
    (found,) = standardised([torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0])], robust=True)
    torch.testing.assert_close(found[:4], torch.tensor([-2.0, -1.0, 0.0, 1.0]) / 1.4826)
    assert found[4] == CLIP


def test_equal_scores_are_standardised_to_zero() -> None:
    for robust in (False, True):
        found = standardised([torch.full((3,), 7.0), torch.full((2,), 7.0)], robust=robust)
        assert torch.cat(found).tolist() == [0.0] * 5


def test_shared_widths_hand_worked() -> None:
    strong = torch.tensor([9.0, 8.0, 7.0, 6.0, 1.0, 1.0])
    weak = torch.tensor([5.0, 5.0, 0.5, 0.5, 0.1, 0.1])
    assert shared_widths([strong, weak], 6, multiple=2, least=2) == [4, 2]
    assert shared_widths([strong, weak], 8, multiple=2, least=2) == [6, 2]
    assert shared_widths([strong, weak], 10, multiple=2, least=2) == [6, 4]
    assert shared_widths([weak, strong], 6, multiple=2, least=2) == [2, 4]


def test_shared_widths_are_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = [torch.rand(8, generator=generator) * (i + 1) for i in range(3)]

    def kept(widths: tuple[int, ...]) -> float:
        pairs = zip(scores, widths, strict=True)
        return sum(float(s.sort(descending=True).values[:w].sum()) for s, w in pairs)

    choices = [w for w in itertools.product((2, 4, 6, 8), repeat=3) if sum(w) == 14]
    best = max(choices, key=kept)
    assert shared_widths(scores, 14, multiple=2, least=2) == list(best)


def test_shared_widths_leave_the_part_that_fills_no_run() -> None:
    assert shared_widths([torch.ones(7), torch.ones(5)], 10, multiple=2, least=2) == [6, 4]


def test_negative_scores_are_no_reason_to_keep_fewer() -> None:
    assert shared_widths([-torch.ones(4), -2 * torch.ones(4)], 6, multiple=2, least=2) == [4, 2]


@pytest.mark.parametrize("budget", [2, 7, 14])
def test_a_budget_that_cannot_be_shared_out_is_refused(budget: int) -> None:
    with pytest.raises(ValueError, match="cannot be shared out"):
        shared_widths([torch.ones(6), torch.ones(6)], budget, multiple=2, least=2)
