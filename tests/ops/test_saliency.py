"""Scores of neurons: hand-worked norms, order, ties."""

from __future__ import annotations

import torch

from paredown.ops.saliency import l2_scores, random_scores, strongest


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
