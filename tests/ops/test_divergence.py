"""Scores of tokens: closed forms, torch's own losses, invariance to chunks."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from paredown.ops.divergence import TokenScores, kl_rows, score_tokens


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(2, 13, 11, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.randint(0, 11, (13,), generator=torch.Generator().manual_seed(1))


def test_closed_form_of_two_outcomes() -> None:
    base = torch.tensor([[0.5, 0.5]]).log()
    model = torch.tensor([[0.9, 0.1]]).log()
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert kl_rows(base, model).item() == pytest.approx(expected, rel=1e-6)
    backward = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert kl_rows(model, base).item() == pytest.approx(backward, rel=1e-6)


def test_hand_worked_scores() -> None:
    mine = torch.tensor([[0.25, 0.75], [0.8, 0.2]]).log() + 5.0  # logits need not be normalised
    base = torch.tensor([[0.4, 0.6], [0.4, 0.6]]).log()
    found = score_tokens(mine, torch.tensor([0, 0]), base)
    torch.testing.assert_close(found.nll, -torch.tensor([0.25, 0.8]).log())
    assert found.right.tolist() == [False, True]
    assert found.agree is not None
    assert found.agree.tolist() == [True, False]


def test_equal_distributions_have_no_divergence(logits: torch.Tensor) -> None:
    logp = logits[0].log_softmax(-1)
    assert kl_rows(logp, logp).tolist() == [0.0] * 13
    shifted = (logits[0] + 100.0).log_softmax(-1)  # differs by rounding only
    found = kl_rows(logp, shifted)
    assert (found >= 0).all()
    assert found.max() < 1e-5


def test_agrees_with_torch(logits: torch.Tensor, targets: torch.Tensor) -> None:
    found = score_tokens(logits[0], targets, logits[1])
    nll = functional.cross_entropy(logits[0], targets, reduction="none")
    kl = functional.kl_div(
        logits[0].log_softmax(-1), logits[1].log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    torch.testing.assert_close(found.nll, nll)
    torch.testing.assert_close(found.kl, kl)
    assert torch.equal(found.right, logits[0].argmax(-1) == targets)
    assert found.agree is not None
    assert torch.equal(found.agree, logits[0].argmax(-1) == logits[1].argmax(-1))


@pytest.mark.parametrize("rows", [1, 4, 12, 13, 14])
def test_chunks_change_nothing(logits: torch.Tensor, targets: torch.Tensor, rows: int) -> None:
    whole = score_tokens(logits[0], targets, logits[1])
    parts = score_tokens(logits[0], targets, logits[1], rows=rows)
    for name in TokenScores.__dataclass_fields__:
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=0, atol=1e-6)


def test_without_a_base_there_is_no_divergence(logits: torch.Tensor, targets: torch.Tensor) -> None:
    found = score_tokens(logits[0], targets, None)
    assert found.kl is None
    assert found.agree is None


def test_half_precision_is_widened_first(logits: torch.Tensor, targets: torch.Tensor) -> None:
    mine, base = logits.bfloat16()
    half = score_tokens(mine, targets, base)
    full = score_tokens(mine.float(), targets, base.float())
    assert half.nll.dtype == torch.float32
    assert torch.equal(half.nll, full.nll)
    assert half.kl is not None
    assert full.kl is not None
    assert torch.equal(half.kl, full.kl)


def test_hopeless_tokens_stay_finite() -> None:
    mine = torch.tensor([[200.0, -200.0]])
    found = score_tokens(mine, torch.tensor([1]), -mine)
    assert found.nll.item() == pytest.approx(400.0)
    assert found.kl is not None
    assert found.kl.item() == pytest.approx(400.0)
