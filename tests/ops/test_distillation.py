"""Losses of recovery: against closed forms and independent computations, and in chunks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from paredown.ops.distillation import (
    distillation_loss,
    feature_loss,
    matching_block,
    token_loss,
)


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(11, 7, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def teacher() -> Tensor:
    return torch.randn(11, 7, generator=torch.Generator().manual_seed(1)) * 3


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 7, (11,), generator=torch.Generator().manual_seed(2))


def test_equal_logits_cost_the_logarithm_of_the_vocabulary(ids: Tensor) -> None:
    assert float(token_loss(torch.ones(11, 7), ids)) == pytest.approx(math.log(7), rel=1e-6)


def test_a_case_worked_by_hand() -> None:
    # Student p = (1/2, 1/2), teacher q = (3/4, 1/4), true token 1, temperature 1:
    # KL = 3/4 ln(3/2) + 1/4 ln(1/2), CE = ln 2.
    student, other = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    found = distillation_loss(student, other, torch.tensor([1]), alpha=0.25, temperature=1.0)
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(found) == pytest.approx(0.25 * kl + 0.75 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_only_the_teacher_is_torch_s_own_divergence(
    logits: Tensor, teacher: Tensor, ids: Tensor, temperature: float
) -> None:
    found = distillation_loss(logits, teacher, ids, alpha=1.0, temperature=temperature)
    expected = torch.nn.functional.kl_div(
        (logits / temperature).log_softmax(-1),
        (teacher / temperature).softmax(-1),
        reduction="batchmean",
    )
    torch.testing.assert_close(found, temperature**2 * expected)


def test_without_a_teacher_s_share_it_is_the_token_loss(
    logits: Tensor, teacher: Tensor, ids: Tensor
) -> None:
    found = distillation_loss(logits, teacher, ids, alpha=0.0, temperature=3.0)
    torch.testing.assert_close(found, token_loss(logits, ids))


def test_the_teacher_itself_has_nothing_to_learn(teacher: Tensor, ids: Tensor) -> None:
    mine = teacher.clone().requires_grad_()
    loss = distillation_loss(mine, teacher, ids, alpha=1.0, temperature=2.0)
    loss.backward()
    assert float(loss) < 1e-6
    assert mine.grad is not None
    assert float(mine.grad.abs().max()) < 1e-6


def test_the_gradient_is_the_difference_of_the_softened_distributions(
    logits: Tensor, teacher: Tensor, ids: Tensor
) -> None:
    mine = logits.clone().requires_grad_()
    loss = distillation_loss(mine, teacher, ids, alpha=1.0, temperature=2.0)
    loss.backward()
    difference = (logits / 2).softmax(-1) - (teacher / 2).softmax(-1)
    torch.testing.assert_close(mine.grad, 4 / 2 * difference / len(ids))


@pytest.mark.parametrize("rows", [1, 4, 11, 100])
def test_chunks_do_not_change_loss_or_gradient(
    logits: Tensor, teacher: Tensor, ids: Tensor, rows: int
) -> None:
    def measure(rows: int) -> tuple[Tensor, Tensor]:
        mine = logits.clone().requires_grad_()
        loss = distillation_loss(mine, teacher, ids, alpha=0.5, temperature=2.0, rows=rows)
        loss.backward()
        assert mine.grad is not None
        return loss.detach(), mine.grad

    for found, expected in zip(measure(rows), measure(1000), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_teacher_gets_no_gradient(logits: Tensor, teacher: Tensor, ids: Tensor) -> None:
    other = teacher.clone().requires_grad_()
    mine = logits.clone().requires_grad_()
    loss = distillation_loss(mine, other, ids, alpha=0.5, temperature=1.0)
    loss.backward()
    assert other.grad is None


def test_half_precision_is_computed_in_float32(
    logits: Tensor, teacher: Tensor, ids: Tensor
) -> None:
    half, other = logits.bfloat16(), teacher.bfloat16()
    found = distillation_loss(half, other, ids, alpha=0.5, temperature=1.0)
    expected = distillation_loss(half.float(), other.float(), ids, alpha=0.5, temperature=1.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_features_by_hand() -> None:
    # Block 0: ||(1, 0) - (2, 0)||^2 / ||(2, 0)||^2 = 1/4; block 1: equal.
    student = [torch.tensor([1.0, 0.0]), torch.tensor([5.0, 5.0])]
    teacher = [torch.tensor([2.0, 0.0]), torch.tensor([5.0, 5.0])]
    assert float(feature_loss(student, teacher)) == pytest.approx(0.125)


def test_features_do_not_depend_on_the_scale_of_a_block() -> None:
    student, teacher = [torch.randn(3, 4) for _ in range(2)], [torch.randn(3, 4) for _ in range(2)]
    scaled = feature_loss([100 * student[0], student[1]], [100 * teacher[0], teacher[1]])
    torch.testing.assert_close(scaled, feature_loss(student, teacher))


def test_blocks_of_a_shallower_student_are_spread_over_the_teacher_s() -> None:
    assert [matching_block(i, 4, 4) for i in range(4)] == [0, 1, 2, 3]
    assert [matching_block(i, 2, 4) for i in range(2)] == [1, 3]
    assert [matching_block(i, 3, 12) for i in range(3)] == [3, 7, 11]
    assert matching_block(0, 1, 9) == 8
    spread = [matching_block(i, 24, 30) for i in range(24)]
    assert spread == sorted(set(spread))
    assert spread[-1] == 29


def test_a_shallower_student_is_compared_with_matching_blocks() -> None:
    teacher = [torch.full((2,), float(i + 1)) for i in range(4)]
    assert float(feature_loss([teacher[1], teacher[3]], teacher)) == 0.0
